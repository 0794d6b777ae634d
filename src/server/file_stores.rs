//! Which file store keeps what: the only module that names a concrete one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::config::{Config, FileStore};
use crate::files::Store;
use crate::files::directory::Directory;
use crate::files::s3::S3;
use crate::metrics::Metrics;
use crate::server::StartError;

/// How often the names of S3 servers are looked up.
const NAMES: Duration = Duration::from_secs(10);

/// Every file store of the configuration, by name.
pub struct FileStores {
    pub by_name: BTreeMap<String, Arc<Store>>,
    s3: Vec<Arc<S3>>,
}

impl FileStores {
    /// None of them need be reachable yet.
    ///
    /// # Errors
    /// A folder or certificate that cannot be used, with the name of the store.
    pub async fn open(config: &Config, metrics: &Metrics, runtime: &Handle) -> Result<Self, StartError> {
        let mut stores = Self { by_name: BTreeMap::new(), s3: Vec::new() };
        for ((name, settings), group) in config.file_stores.iter().zip(1..) {
            let store = match settings {
                FileStore::S3(settings) => {
                    let opened = S3::new(name, settings, group, metrics, runtime).await;
                    let s3 = Arc::new(opened.map_err(|e| format!("file_stores.{name}: {e}"))?);
                    stores.s3.push(s3.clone());
                    Store::new(name, s3)
                }
                FileStore::Directory { path } => {
                    let opened = Directory::open(path);
                    let folder =
                        opened.map_err(|e| format!("file_stores.{name}: {}: {e}", path.display()))?;
                    Store::new(name, Arc::new(folder))
                }
            };
            stores.by_name.insert(name.clone(), Arc::new(store));
        }
        Ok(stores)
    }

    /// Keeps credentials fresh and names resolved, on `runtime` and for as long as it.
    pub fn keep(&self, runtime: &Handle) {
        for s3 in &self.s3 {
            let (credentials, names) = (s3.clone(), s3.clone());
            runtime.spawn(async move { credentials.keep_credentials().await });
            runtime.spawn(async move {
                loop {
                    names.resolve().await;
                    tokio::time::sleep(NAMES).await;
                }
            });
        }
    }
}
