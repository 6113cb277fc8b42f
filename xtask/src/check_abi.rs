//! `check-abi`: the shared types as the agent's compiler lays them out,
//! against the kernel object's BTF, field by field.
//!
//! The two come from two compilers for two targets, and an object may be
//! older than the source: equal source alone proves nothing.

use std::fs;
use std::mem::{offset_of, size_of};

use anyhow::{Context, Result, bail};
use mesh_common::abi;

use crate::btf::{Btf, Field, Layout};
use crate::elf;
use crate::repo::Repo;

/// Lists a type's fields; does not compile if one is left out.
macro_rules! layout {
    ($name:ident { $($field:ident),+ $(,)? }) => {{
        let _all_named = |abi::$name { $($field: _),+ }: abi::$name| ();
        Layout {
            name: stringify!($name).to_owned(),
            size: size_of::<abi::$name>(),
            fields: vec![$(Field {
                name: stringify!($field).to_owned(),
                offset: offset_of!(abi::$name, $field),
                size: size_behind(|value: &abi::$name| &value.$field),
            }),+],
        }
    }};
}

fn size_behind<T, F>(_field: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// Every type that crosses the border.
fn shared_types() -> Vec<Layout> {
    vec![
        layout!(Addr { words_be }),
        layout!(Enrolled {
            flags,
            reserved,
            v4,
            v6,
            v6_link_local
        }),
        layout!(Tuple {
            source,
            destination,
            source_port,
            destination_port
        }),
        layout!(PodAddr {
            netns_cookie,
            address
        }),
        layout!(ProbePort {
            netns_cookie,
            port,
            reserved
        }),
        layout!(Guard {
            netns_cookie,
            flags,
            reserved
        }),
        layout!(RefusalEvent {
            netns_cookie,
            cgroup_id,
            destination,
            destination_port,
            counter
        }),
    ]
}

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    crate::no_arguments("check-abi", args)?;
    check(repo)?;
    println!("check-abi: {} types agree", shared_types().len());
    Ok(())
}

pub(crate) fn check(repo: &Repo) -> Result<()> {
    let path = repo.ebpf_object();
    let object = fs::read(&path).with_context(|| {
        format!(
            "read {}; run `cargo xtask build-ebpf` first",
            path.display()
        )
    })?;
    let section =
        elf::section(&object, ".BTF").with_context(|| format!("read {}", path.display()))?;
    let btf = Btf::parse(section).with_context(|| format!("read the BTF of {}", path.display()))?;
    let mut differences = Vec::new();
    for ours in shared_types() {
        match btf.layout(&ours.name)? {
            Some(theirs) => differences.extend(compare(&ours, &theirs)),
            None => differences.push(format!(
                "{}: not in the object's BTF; name it in mesh-ebpf/src/abi.rs",
                ours.name
            )),
        }
    }
    if !differences.is_empty() {
        bail!(
            "the kernel object and the agent disagree:\n  {}",
            differences.join("\n  ")
        );
    }
    Ok(())
}

/// What differs, agent first.
fn compare(ours: &Layout, theirs: &Layout) -> Vec<String> {
    let mut differences = Vec::new();
    let name = &ours.name;
    if ours.size != theirs.size {
        differences.push(format!(
            "{name}: {} bytes, in the object {}",
            ours.size, theirs.size
        ));
    }
    for field in &ours.fields {
        match theirs.fields.iter().find(|other| other.name == field.name) {
            Some(other) if other == field => {}
            Some(other) => differences.push(format!(
                "{name}.{}: {} bytes at {}, in the object {} at {}",
                field.name, field.size, field.offset, other.size, other.offset
            )),
            None => differences.push(format!("{name}.{}: not in the object", field.name)),
        }
    }
    for other in &theirs.fields {
        if !ours.fields.iter().any(|field| field.name == other.name) {
            differences.push(format!("{name}.{}: only in the object", other.name));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, fields: &[(&str, usize, usize)]) -> Layout {
        let fields = fields
            .iter()
            .map(|&(name, offset, size)| Field {
                name: name.to_owned(),
                offset,
                size,
            })
            .collect();
        Layout {
            name: "T".to_owned(),
            size,
            fields,
        }
    }

    #[test]
    fn equal_layouts_have_no_difference() {
        for ours in shared_types() {
            assert!(compare(&ours, &ours).is_empty());
        }
    }

    #[test]
    fn moved_renamed_and_grown_fields_are_each_named() {
        let ours = layout(12, &[("a", 0, 4), ("b", 4, 4), ("c", 8, 4)]);
        let theirs = layout(16, &[("a", 0, 8), ("b", 8, 4), ("d", 12, 4)]);
        assert_eq!(
            compare(&ours, &theirs),
            [
                "T: 12 bytes, in the object 16",
                "T.a: 4 bytes at 0, in the object 8 at 0",
                "T.b: 4 bytes at 4, in the object 4 at 8",
                "T.c: not in the object",
                "T.d: only in the object",
            ]
        );
    }
}
