//! Applies a changed configuration while the service runs, as far as possible: see [`Config::differences`].

use std::sync::Arc;

use super::{Service, ServiceError};
use crate::config::Config;
use crate::io::websocket::{Access, ConnectError};
use crate::memory;
use crate::sync::locked;

/// Everything loaded for a new configuration, before anything changes.
pub struct Reload {
    config: Config,
    access: Access,
}

/// Why a new configuration cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Access(#[from] ConnectError),
    #[error("the service is shutting down")]
    Stopping,
}

impl Service {
    /// Loads the certificates and keys of the data server that `config` names.
    ///
    /// # Errors
    /// [`ReloadError`]
    pub async fn prepare_reload(&self, config: Config) -> Result<Reload, ReloadError> {
        let engine = self.inner.engine.read().await;
        let websockets = engine.as_ref().ok_or(ReloadError::Stopping)?.websockets();
        let access = websockets.load_access(&config.server)?;
        Ok(Reload { config, access })
    }

    /// Applies the settings that can change while the service runs. The time zone is only applied with `with_zone`,
    /// since it may have been set over REST. A process that takes orders has the time zone of process 0.
    ///
    /// # Errors
    /// [`ServiceError::Stopping`]
    pub async fn reload(&self, reload: Reload, with_zone: bool) -> Result<(), ServiceError> {
        let Reload { config, access } = reload;
        if with_zone && !self.follows() {
            self.use_zone(config.zone.clone()).await?;
        }
        let websockets = self.inner.engine.read().await.as_ref().ok_or(ServiceError::Stopping)?.websockets();
        websockets.admit_by(access).await;
        memory::set_budget(config.max_memory);
        let mut current = locked(&self.inner.config);
        let zone = current.zone.clone();
        *current = Arc::new(Config { zone, ..current.taking_over(&config) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::opened;
    use super::*;
    use crate::config::zone;

    #[tokio::test]
    async fn a_time_zone_set_over_rest_stays_until_the_files_name_another() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let service = opened(data.path()).await;
        let zone = |name| zone(name).expect("a time zone");
        let config = |name| Config { zone: zone(name), rest_hosts: vec![name.to_owned()], ..Config::default() };
        service.use_zone(zone("Asia/Tokyo")).await.unwrap();
        let reload = service.prepare_reload(config("UTC")).await.unwrap();
        service.reload(reload, false).await.unwrap();
        assert_eq!((service.config().zone.clone(), &*service.config().rest_hosts[0]), (zone("Asia/Tokyo"), "UTC"));
        let reload = service.prepare_reload(config("Europe/Berlin")).await.unwrap();
        service.reload(reload, true).await.unwrap();
        assert_eq!(service.config().zone, zone("Europe/Berlin"));
        service.stop().await;
        assert!(matches!(service.prepare_reload(config("UTC")).await, Err(ReloadError::Stopping)));
        drop(service);
    }
}
