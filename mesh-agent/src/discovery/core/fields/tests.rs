use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Pod, PodSpec, PodStatus, Service, ServiceAccount,
    ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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

fn fields<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    let mut fields: &[&str] = &[];
    assert!(T::deserialize(Ask(&mut fields)).is_err());
    let mut fields = fields.to_vec();
    fields.sort_unstable();
    fields
}

#[test]
fn the_fields_are_those_of_the_api() {
    let pairs = [
        ("NAMESPACE", super::NAMESPACE, fields::<Namespace>()),
        (
            "SERVICE_ACCOUNT",
            super::SERVICE_ACCOUNT,
            fields::<ServiceAccount>(),
        ),
        ("SERVICE", super::SERVICE, fields::<Service>()),
        (
            "ENDPOINT_SLICE",
            super::ENDPOINT_SLICE,
            fields::<EndpointSlice>(),
        ),
        ("POD", super::POD, fields::<Pod>()),
        ("OBJECT_META", super::OBJECT_META, fields::<ObjectMeta>()),
        ("POD_SPEC", super::POD_SPEC, fields::<PodSpec>()),
        ("POD_STATUS", super::POD_STATUS, fields::<PodStatus>()),
        ("CONTAINER", super::CONTAINER, fields::<Container>()),
        (
            "CONTAINER_PORT",
            super::CONTAINER_PORT,
            fields::<ContainerPort>(),
        ),
        ("SERVICE_SPEC", super::SERVICE_SPEC, fields::<ServiceSpec>()),
        ("SERVICE_PORT", super::SERVICE_PORT, fields::<ServicePort>()),
        ("ENDPOINT", super::ENDPOINT, fields::<Endpoint>()),
        (
            "CONDITIONS",
            super::CONDITIONS,
            fields::<EndpointConditions>(),
        ),
        ("HINTS", super::HINTS, fields::<EndpointHints>()),
        (
            "ENDPOINT_PORT",
            super::ENDPOINT_PORT,
            fields::<EndpointPort>(),
        ),
    ];
    for (name, known, of_the_api) in &pairs {
        assert_eq!(*known, of_the_api.as_slice(), "{name}: {of_the_api:?}");
    }
}
