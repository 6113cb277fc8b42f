//! What the API's own types say, for tests: the tables here are held to them.

use k8s_openapi::{Metadata, Resource};
use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};

/// Asks a type for its fields, and gives it nothing.
struct Ask<'f>(&'f mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Ask<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("asked"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map enum
        identifier ignored_any
    }
}

/// Of one of the API's own types, in order.
pub(super) fn fields<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    let mut fields: &[&str] = &[];
    assert!(T::deserialize(Ask(&mut fields)).is_err());
    let mut fields = fields.to_vec();
    fields.sort_unstable();
    fields
}

/// Does the entry say of itself what the API says of the kind?
pub(super) fn is_of_the_api<T: Resource + Metadata>(about: &super::About) {
    assert_eq!(about.name, T::KIND);
    assert_eq!(about.group, T::GROUP);
    assert_eq!(about.versions, [T::VERSION]);
    assert_eq!(about.plural, T::URL_PATH_SEGMENT);
    let of_cluster = std::any::type_name::<T::Scope>().contains("Cluster");
    assert_eq!(about.namespaced, !of_cluster, "{}", about.name);
}
