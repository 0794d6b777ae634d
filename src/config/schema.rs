//! JSON Schema of `gateway.toml`, from which editors complete and explain keys.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::file::File;

/// The schema, draft 2020-12. Keys of later versions are left out: an editor should not offer them.
pub fn schema() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>().to_value()
}
