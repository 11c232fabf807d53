//! How values of ours look to callers of the API, as JSON Schema: the same rules as in the constructors, so that whoever
//! keeps to the schema is not refused. Only for types whose shape does not follow from their fields.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    AppName, ClusterId, ContinentName, DatacenterName, HttpRequestId, InstanceId, LabelName, LabelValue, NodeId,
    NodeName, PortName, RegionName, Revealed, RuntimeName, Scale, SecretName, ServiceName, SnapshotName, TokenId,
    VolumeName, VolumeRef, definition::SCALE_MAX, name::LABEL_LEN_MAX, request::REQUEST_ID_LEN, secret::SECRET_LEN_MAX,
};

/// A DNS label in lower case, as a part of other patterns.
macro_rules! label {
    () => {
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    };
}

/// Declares texts: name, what it is, least and greatest length in characters, pattern.
macro_rules! texts {
    ($($name:ident: $what:literal, $least:expr, $most:expr, $pattern:expr;)*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "description": $what,
                    "minLength": $least,
                    "maxLength": $most,
                    "pattern": $pattern,
                })
            }
        }
    )*};
}

const LABEL: &str = concat!("^", label!(), "$");

texts! {
    AppName: "The name of an app.", 1, LABEL_LEN_MAX, LABEL;
    ServiceName: "The name of a service within its app.", 1, LABEL_LEN_MAX, LABEL;
    RegionName: "The name of a region.", 1, LABEL_LEN_MAX, LABEL;
    ContinentName: "The name of a continent.", 1, LABEL_LEN_MAX, LABEL;
    DatacenterName: "The name of a data centre.", 1, LABEL_LEN_MAX, LABEL;
    NodeName: "The name of a node; unique in its region.", 1, LABEL_LEN_MAX, LABEL;
    PortName: "The name of a port of a service.", 1, LABEL_LEN_MAX, LABEL;
    VolumeName: "The name of a volume of a service.", 1, LABEL_LEN_MAX, LABEL;
    SnapshotName: "The name of a snapshot of a volume.", 1, LABEL_LEN_MAX, LABEL;
    RuntimeName: "The name of a runtime class.", 1, LABEL_LEN_MAX, LABEL;
    LabelName: "The name of a label of nodes.", 1, LABEL_LEN_MAX, LABEL;
    LabelValue: "The value of a label.", 1, LABEL_LEN_MAX, "^[A-Za-z0-9._-]+$";
    SecretName: "The name of a secret, which is that of an environment variable.", 1, 128,
        "^(?!INSULA_)[A-Za-z_][A-Za-z0-9_]*$";
    // The first of 13 digits of five bits may not exceed f: an id has 64 bits.
    NodeId: "A node's id.", 15, 15, "^n-[0-9a-f][0-9a-hjkmnp-tv-z]{12}$";
    TokenId: "A token's id: the part of it that is no secret.", 15, 15, "^t-[0-9a-f][0-9a-hjkmnp-tv-z]{12}$";
    InstanceId: "An instance's id.", 10, 10, "^i-[0-9a-hjkmnp-tv-z]{8}$";
    HttpRequestId: "The id of a request to an edge, as X-Request-Id says it.", *REQUEST_ID_LEN.start(),
        *REQUEST_ID_LEN.end(), "^[A-Za-z0-9._-]+$";
    ClusterId: "The cluster's id.", 16, 16, "^[0-9a-f]{16}$";
    Revealed: "The value of a secret: text without NUL, of at most 16384 bytes.", 1, SECRET_LEN_MAX, "^[^\\x00]+$";
    VolumeRef: "A volume, written app/service/name.slot.", 7, 3 * LABEL_LEN_MAX + 12,
        concat!("^", label!(), "/", label!(), "/", label!(), "\\.(0|[1-9][0-9]{0,8})$");
}

impl JsonSchema for Scale {
    fn schema_name() -> Cow<'static, str> {
        "Scale".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Instances per region: a number, or one on each node that the service asks for.",
            "oneOf": [{ "type": "integer", "minimum": 0, "maximum": SCALE_MAX }, { "const": Self::EACH_NODE }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_valid_here_is_so_in_the_schema() {
        let schema = VolumeRef::json_schema(&mut SchemaGenerator::default());
        let pattern = schema.get("pattern").and_then(serde_json::Value::as_str).expect("a pattern");
        assert!(pattern.starts_with('^') && pattern.ends_with('$') && pattern.matches("[a-z0-9]").count() == 6);
        let longest = format!("{0}/{0}/{0}.123456789", "x".repeat(LABEL_LEN_MAX));
        longest.parse::<VolumeRef>().expect("valid");
        assert_eq!(longest.len(), 3 * LABEL_LEN_MAX + 12);
        "a/b/c.0".parse::<VolumeRef>().expect("valid");
        for digit in "0123456789abcdefghjkmnpqrstvwxyz".chars() {
            format!("i-{digit}0000000").parse::<InstanceId>().expect("a digit of the pattern");
            let is_id = format!("n-{digit}000000000000").parse::<NodeId>().is_ok();
            assert_eq!(is_id, digit.is_ascii_hexdigit(), "{digit}");
        }
    }
}
