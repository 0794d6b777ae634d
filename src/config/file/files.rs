//! Keys about files: the stores they lie in, and what a route does with them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::traffic::Timeouts;
use super::{Section, Written};

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct FileStore {
    /// `s3`: a bucket of AWS, or of another server that speaks S3; `directory`: a folder of this machine. Required.
    #[schemars(extend("enum" = ["s3", "directory"]))]
    pub kind: Option<Written<String>>,
    /// The folder, which exists, relative to the configuration file. Required with `directory`.
    pub path: Option<Written<String>>,
    /// Name of the bucket. Required with `s3`.
    pub bucket: Option<Written<String>>,
    /// Region of the bucket; what another server than AWS calls its own.
    pub region: Written<String>,
    /// Address of another server than AWS, `"https://minio.internal:9000"`.
    pub endpoint: Option<Written<String>>,
    /// Ask for `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: Written<bool>,
    /// Id of an access key. With neither this nor a `profile`, the usual places are searched: environment, files of AWS, container and instance roles.
    pub access_key_id: Option<Written<String>>,
    /// The secret of `access_key_id`.
    pub secret_access_key: Option<Written<String>>,
    /// A profile of the files of AWS, instead of an access key.
    pub profile: Option<Written<String>>,
    /// PEM file of the authorities that vouch for the server, relative to the configuration file; the usual ones when silent.
    pub ca: Option<Written<String>>,
    /// How long it is waited for.
    pub timeouts: Section<Timeouts>,
    /// Files larger than this are sent in parts, 5MiB to 5GiB.
    pub multipart_above: Written<String>,
}

impl Default for FileStore {
    fn default() -> Self {
        Self {
            kind: None,
            path: None,
            bucket: None,
            region: "us-east-1".into(),
            endpoint: None,
            path_style: false.into(),
            access_key_id: None,
            secret_access_key: None,
            profile: None,
            ca: None,
            timeouts: Section::default(),
            multipart_above: "5GiB".into(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Files {
    /// Name of a file store. Required.
    pub store: Option<Written<String>>,
    /// What the names of the caller's files begin with, claims in braces: `"users/{sub}/"`; `""` for the whole store. Required.
    pub prefix: Option<Written<String>>,
    /// GET (which includes HEAD), PUT and DELETE. `share` adds POST.
    #[schemars(extend("items" = { "type": "string", "enum": ["GET", "HEAD", "PUT", "DELETE"] }))]
    pub methods: Written<Vec<Written<String>>>,
    /// Largest file taken, 1B to 5TiB; beyond: 413.
    pub max_size: Written<String>,
    /// Media types taken, `"image/png"` or `"image/*"`; any when empty.
    pub types: Written<Vec<Written<String>>>,
    /// Value of `Cache-Control`; `private, no-cache` when silent, `public, max-age=300` with `public`.
    pub cache_control: Option<Written<String>>,
    /// Anybody may read, and shared caches may keep.
    pub public: Written<bool>,
    /// Who may write and delete: holders of one of these roles; anybody the route lets in when empty.
    pub write_roles: Written<Vec<Written<String>>>,
    /// Holders of one of these roles may name another caller's prefix, `?prefix=users/42/`.
    pub admin_roles: Written<Vec<Written<String>>>,
    /// Whether `?list` is answered; when silent, only where a token is required.
    pub list: Option<Written<bool>>,
    /// Longest life of a link that lets somebody without a token at one file, 1m to 365d; there are none when silent.
    pub share: Option<Written<String>>,
    /// What may lie below one prefix.
    pub quota: Option<Section<Quota>>,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            store: None,
            prefix: None,
            methods: Written::from(vec!["GET".into()]),
            max_size: "100MiB".into(),
            types: Written::from(Vec::new()),
            cache_control: None,
            public: false.into(),
            write_roles: Written::from(Vec::new()),
            admin_roles: Written::from(Vec::new()),
            list: None,
            share: None,
            quota: None,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Quota {
    /// All files together, 1B to 1048576TiB.
    pub bytes: Option<Written<String>>,
    /// Number of files, 1 to 4294967295.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub objects: Option<Written<i64>>,
}
