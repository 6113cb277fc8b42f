//! One object: which it is, and what it says.

use serde_json::value::RawValue;

use super::cut::{Cut, Fields, begin, fields, text, write_field};
use super::resource::Resource;

/// Which object it is, and which version of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) namespace: Option<String>,
    /// Empty where it does not say so that it can be understood.
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) version: String,
}

/// An object without what nobody reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) head: Head,
    pub(crate) json: Vec<u8>,
}

/// Who wrote which field, and the whole object once more: half of its size.
const NEVER_READ: Cut = Cut {
    out: &["managedFields"],
    inside: &[(
        "annotations",
        Cut {
            out: &["kubectl.kubernetes.io/last-applied-configuration"],
            inside: &[],
        },
    )],
};

impl Item {
    /// Reads one that is listed or told of as such a resource. One that is not
    /// even JSON is passed on as it is, without a name: the reader says so.
    pub(crate) fn read(resource: &Resource, json: &[u8]) -> Self {
        match fields(json) {
            Ok(fields) => Self::of(resource, &fields, json.len()),
            Err(_) => Self {
                head: Head::default(),
                json: json.to_vec(),
            },
        }
    }

    fn of(resource: &Resource, fields: &Fields<'_>, size: usize) -> Self {
        let mut json = Vec::with_capacity(size);
        let mut head = Head::default();
        let mut first = true;
        json.push(b'{');
        // Items of a list do not say again what they are.
        if !fields.0.iter().any(|(name, _)| name == "kind") {
            for (name, value) in [
                ("kind", resource.kind),
                ("apiVersion", &resource.api_version()),
            ] {
                begin(&mut first, &mut json);
                write_field(name, &mut json);
                let _never = serde_json::to_writer(&mut json, value);
            }
        }
        for (name, value) in &fields.0 {
            if resource.cut.out.contains(&&**name) {
                continue;
            }
            begin(&mut first, &mut json);
            write_field(name, &mut json);
            match &**name {
                "metadata" => {
                    head = Head::of(value);
                    NEVER_READ.write(value, &mut json);
                }
                name => resource.cut.of(name).write(value, &mut json),
            }
        }
        json.push(b'}');
        json.shrink_to_fit();
        Self { head, json }
    }
}

impl Head {
    fn of(metadata: &RawValue) -> Self {
        let mut head = Self::default();
        let Ok(fields) = fields(metadata.get().as_bytes()) else {
            return head;
        };
        for (name, value) in &fields.0 {
            match &**name {
                "name" => head.name = text(value).unwrap_or_default(),
                "namespace" => head.namespace = text(value).filter(|text| !text.is_empty()),
                "uid" => head.uid = text(value),
                "resourceVersion" => head.version = text(value).unwrap_or_default(),
                _ => {}
            }
        }
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: Resource = Resource {
        cut: &Cut {
            out: &[],
            inside: &[(
                "spec",
                Cut {
                    out: &["volumes"],
                    inside: &[],
                },
            )],
        },
        ..Resource::PODS
    };

    fn read(json: &str) -> (Head, String) {
        let item = Item::read(&PODS, json.as_bytes());
        (item.head, String::from_utf8(item.json).expect("text"))
    }

    #[test]
    fn an_item_of_a_list_says_what_it_is_and_nothing_that_nobody_reads() {
        let (head, json) = read(
            r#"{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","managedFields":[{"x":1}],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","mesh-agent.io/x":"y"}},"spec":{"volumes":[1],"nodeName":"n1"}}"#,
        );
        assert_eq!(
            json,
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","annotations":{"mesh-agent.io/x":"y"}},"spec":{"nodeName":"n1"}}"#
        );
        let expected = Head {
            namespace: Some("n".to_owned()),
            name: "a".to_owned(),
            uid: Some("u".to_owned()),
            version: "7".to_owned(),
        };
        assert_eq!(head, expected);
    }

    #[test]
    fn what_is_odd_goes_to_the_reader_as_it_is() {
        for json in [
            r#"{"kind":"Pod","metadata":{"name":7},"spec":[]}"#,
            r#"{"kind":"Pod","metadata":"x"}"#,
            r#"{"kind":"#,
            "",
        ] {
            let (head, text) = read(json);
            assert_eq!((head.name.as_str(), text.as_str()), ("", json));
        }
    }
}
