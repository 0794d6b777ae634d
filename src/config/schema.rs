//! JSON Schema of `gateway.toml`, from which editors complete and explain keys.

use schemars::generate::SchemaSettings;

use super::file::File;

/// The schema, draft 2020-12, as indented JSON. Keys of later versions are left out: an editor should not
/// offer them.
pub fn schema() -> String {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
    format!("{:#}", schema.as_value())
}
