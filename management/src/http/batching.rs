//! How the batching of a version is written in bodies and answers.
//!
//! Invariant: what is answered can be given again.

use std::fmt;

use clipper_rpc::catalog::{Batching, BatchingStrategy};
use serde::de::value::MapAccessDeserializer;
use serde::de::{IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{AdditionalProperties, OneOfBuilder, SchemaType};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::body::word;
use crate::models::MAX_WAIT_MICROS;

/// A [`Batching`], given as an object or as the name of its strategy.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(transparent)]
pub(super) struct BatchingBody(pub(super) Batching);

impl<'de> Deserialize<'de> for BatchingBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BatchingVisitor).map(Self)
    }
}

/// Not an untagged enum: that could not say what is wrong with the strategy or a field.
struct BatchingVisitor;

impl<'de> Visitor<'de> for BatchingVisitor {
    type Value = Batching;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a strategy, or an object with strategy and wait_micros")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Batching, E> {
        let strategy = BatchingStrategy::deserialize(name.into_deserializer())?;
        Ok(Batching { strategy, wait_micros: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Batching, A::Error> {
        let object = BatchingObject::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Batching { strategy: object.strategy.unwrap_or_default(), wait_micros: object.wait_micros })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchingObject {
    #[serde(default, deserialize_with = "word")]
    strategy: Option<BatchingStrategy>,
    wait_micros: Option<u32>,
}

impl PartialSchema for BatchingBody {
    fn schema() -> RefOr<Schema> {
        let strategy = || {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .enum_values(Some(["adaptive", "aimd", "quantile", "fixed"]))
                .description(Some("What decides how many inputs go into a batch"))
        };
        let wait = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::Integer, Type::Null]))
            .minimum(Some(0))
            .maximum(Some(MAX_WAIT_MICROS))
            .description(Some(
                "How long a batch that could be larger waits for more inputs, in microseconds",
            ));
        let object = ObjectBuilder::new()
            .property("strategy", strategy())
            .property("wait_micros", wait)
            .additional_properties(Some(AdditionalProperties::FreeForm(false)));
        OneOfBuilder::new().item(strategy()).item(object).into()
    }
}

impl ToSchema for BatchingBody {}
