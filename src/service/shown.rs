//! A read-only service that shows rules which it does not start or end itself: the rules of `plutino run --console`.
//!
//! It borrows its engine, and has no store: nothing can be changed through it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::RwLockReadGuard;
use tokio_util::sync::CancellationToken;

use super::definition::Definition;
use super::relations::Relations;
use super::rules::Entry;
use super::status::Baseline;
use super::store::{RecordKind, Records, Store};
use super::uploads::Uploads;
use super::{Service, bounds, locked, millis};
use crate::config::Config;
use crate::engine::Engine;
use crate::io::reach::Reach;
use crate::pipeline::{Bindings, Content};
use crate::time::Clock;

/// Keeps the engine in place while this is held.
pub struct EngineGuard<'a>(RwLockReadGuard<'a, Option<Engine>>);

impl EngineGuard<'_> {
    /// `None` if there is no engine.
    pub fn of(engine: RwLockReadGuard<'_, Option<Engine>>) -> Option<EngineGuard<'_>> {
        engine.is_some().then_some(EngineGuard(engine))
    }
}

impl Deref for EngineGuard<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        self.0.as_ref().expect("it was there when the guard was made")
    }
}

impl Service {
    /// A service over a running engine, which shows nothing yet.
    pub fn showing(engine: Engine, mut config: Config, data: &Path) -> Service {
        // The API can check statements, though it cannot execute them.
        let (files, egress) = bounds(&config, data);
        config.reach = Some(Reach::new(files, &config.env_allow).with_egress(egress));
        let store = Store::absent();
        let uploads = Uploads::at(data);
        Service::assemble(engine, store, config, uploads, CancellationToken::new(), Clock::System)
    }

    /// Whether it is read-only.
    pub fn is_read_only(&self) -> bool {
        self.inner.store.is_absent()
    }

    /// Shows this running content in place of the previous one.
    pub async fn show(&self, content: &Content) {
        let mut config = Config::clone(&self.config());
        config.sources = content.conf_keys.clone();
        *locked(&self.inner.config) = Arc::new(config);
        let mut relations = Relations::default();
        for sql in content.relations.values() {
            if let Err(error) = relations.restore(sql) {
                tracing::error!("a statement cannot be shown: {error}");
            }
        }
        *locked(&self.inner.relations) = relations;
        locked(&self.inner.views).clear();
        let views = content.views.iter().map(|(name, sql)| (RecordKind::View, name.clone(), sql.clone()));
        self.restore_views(&Records::from_iter(views));
        self.inner.views_begun.send_replace(true);
        let mut rules = BTreeMap::new();
        for (id, text) in &content.rules {
            let known = locked(&self.inner.rules).get(id).filter(|entry| *entry.text() == **text).cloned();
            let shown = match known {
                Some(known) => Ok(known),
                None => self.running_rule(id, text).await,
            };
            match shown {
                Ok(entry) => drop(rules.insert(id.clone(), entry)),
                Err(error) => tracing::error!("rule {id} cannot be shown: {error}"),
            }
        }
        *locked(&self.inner.rules) = rules;
    }

    /// An entry for a rule that runs on the engine.
    async fn running_rule(&self, id: &str, text: &str) -> Result<Arc<Entry>, super::ServiceError> {
        let definition = Definition::read(text, Some(id), &self.config().rule)?;
        // The rule belongs to the operator, who may access everything.
        let config = Config { reach: None, ..Config::clone(&self.config()) };
        let nodes = definition.plan(&self.catalog(), &Bindings::of(Arc::new(config)))?.nodes;
        let engine = self.inner.engine.read().await;
        let base = engine.as_ref().map(|engine| Baseline::of(&engine.sources_of(id))).unwrap_or_default();
        Ok(Entry::running(id, &definition, text, nodes, base, millis(SystemTime::now())))
    }

    /// The engine; `None` after it was taken.
    pub async fn engine(&self) -> Option<EngineGuard<'_>> {
        EngineGuard::of(self.inner.engine.read().await)
    }

    /// Takes the engine away in order to end it. From then on the service has nothing to show.
    pub async fn take_engine(&self) -> Option<Engine> {
        self.inner.engine.write().await.take()
    }
}
