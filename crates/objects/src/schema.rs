//! Schemas of types, as servers use them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::schema::StructuralSchemaRewriter;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

/// The schema of a type, in one piece and in the structural form that servers use.
pub(crate) fn schema<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::openapi3();
    settings.inline_subschemas = true;
    let schema =
        settings.with_transform(StructuralSchemaRewriter).into_generator().into_root_schema_for::<T>();
    serde_json::to_value(schema).unwrap_or_else(|_| json!({}))
}

/// The schema of the metadata that every object has.
pub(crate) fn metadata_schema() -> Value {
    let mut schema = schema::<ObjectMeta>();
    if let Some(fields) = schema.as_object_mut() {
        fields.retain(|name, _| matches!(name.as_str(), "type" | "properties" | "description" | "required"));
    }
    schema
}
