//! A value and where it was written; a table and where it begins.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// Bytes of the file; empty for a default.
pub(in crate::config) type Span = Range<usize>;

/// A value and the bytes of the file that say it, `0..0` when it is the default.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(in crate::config) struct Written<T> {
    pub value: T,
    #[serde(skip)]
    pub span: Span,
}

impl<T> Written<T> {
    /// Whether the file says it.
    pub fn is_written(&self) -> bool {
        !self.span.is_empty()
    }

    /// Where the file says it, if it does.
    pub fn written_at(&self) -> Option<&Span> {
        Some(&self.span).filter(|_| self.is_written())
    }
}

impl<T> From<T> for Written<T> {
    fn from(value: T) -> Self {
        Self { value, span: 0..0 }
    }
}

impl From<&str> for Written<String> {
    fn from(value: &str) -> Self {
        Self::from(value.to_owned())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        Ok(Self { span: spanned.span(), value: spanned.into_inner() })
    }
}

impl<T: JsonSchema> JsonSchema for Written<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

// A key of a map is found by its name, wherever it was written.
impl PartialEq for Written<String> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Written<String> {}

impl PartialOrd for Written<String> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Written<String> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.value.cmp(&other.value)
    }
}

impl Borrow<str> for Written<String> {
    fn borrow(&self) -> &str {
        &self.value
    }
}

/// A table, and where it begins. Unlike serde's own reading of a struct it does not take an array, whose
/// elements would be matched with the keys by position.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(in crate::config) struct Section<T> {
    value: T,
    #[serde(skip)]
    pub span: Span,
}

impl<T> Deref for Section<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<TableOnly<T>>::deserialize(deserializer)?;
        Ok(Self { span: spanned.span(), value: spanned.into_inner().0 })
    }
}

impl<T: JsonSchema> JsonSchema for Section<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

struct TableOnly<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TableOnly<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Table<T> {
            type Value = TableOnly<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(TableOnly)
            }
        }
        deserializer.deserialize_map(Table(PhantomData))
    }
}

/// A key that has a meaning in DESIGN.md but not yet in this version: read, whatever its value, and refused.
#[derive(Clone, Debug)]
pub(in crate::config) struct Later {
    pub span: Span,
}

impl<'de> Deserialize<'de> for Later {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<IgnoredAny>::deserialize(deserializer)?;
        Ok(Self { span: spanned.span() })
    }
}

/// One entry of `server.listen`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum Listen {
    /// Plain HTTP/1.1 at this address.
    Address(String),
    Table(ListenTable),
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct ListenTable {
    /// IP address and port, `"0.0.0.0:8443"`.
    pub address: Option<Written<String>>,
    /// Certificate and key; without it the listener speaks plain HTTP.
    pub tls: Option<Section<Tls>>,
    /// HTTP/2 beside HTTP/1.1: by ALPN with TLS, by prior knowledge without.
    pub h2: Option<Written<bool>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Tls {
    /// PEM file: the server's certificate first, then those that signed it. Relative to the configuration file.
    pub cert: Option<Written<String>>,
    /// PEM file with the certificate's private key. Relative to the configuration file.
    pub key: Option<Written<String>>,
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AddressOrTable;
        impl<'de> Visitor<'de> for AddressOrTable {
            type Value = Listen;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a table")
            }
            fn visit_str<E>(self, text: &str) -> Result<Listen, E> {
                Ok(Listen::Address(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listen, A::Error> {
                ListenTable::deserialize(MapAccessDeserializer::new(map)).map(Listen::Table)
            }
        }
        deserializer.deserialize_any(AddressOrTable)
    }
}
