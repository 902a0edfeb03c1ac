//! The catalog as it stands, and the recent changes that led to it: what frontends are told.
//!
//! Written by the store's thread once an edit is on disk, read by everyone. Invariant: applying the changes
//! since any revision that the ring still reaches to the catalog of that revision gives the catalog of now.

use std::sync::Arc;

use clipper_rpc::catalog::{Change, Position, Update};
use tokio::sync::watch;
use uuid::Uuid;

use crate::bounded::{Bounded, Bounds};
use crate::bounds::size_of_change;
use crate::catalog::Catalog;

/// The changes that are kept, and their memory, roughly. A frontend that is further behind gets a snapshot, which is
/// right at any distance.
const RING: Bounds = Bounds { count: 1024, bytes: 16 << 20 };

/// See the module's documentation.
#[derive(Debug)]
pub struct Feed {
    store: Uuid,
    run: Uuid,
    published: watch::Sender<Published>,
}

/// What was published last.
#[derive(Debug)]
struct Published {
    catalog: Arc<Catalog>,
    /// Oldest first; the last led to `catalog.revision`.
    ring: Bounded<Change>,
}

impl Feed {
    /// A feed that begins at the catalog of a store that was just opened, and with it another run of the store.
    pub fn new(store: Uuid, catalog: Catalog) -> Self {
        let run = Uuid::new_v4();
        let catalog = Arc::new(Catalog { run, ..catalog });
        Self { store, run, published: watch::Sender::new(Published { catalog, ring: Bounded::new(RING) }) }
    }

    /// Identifies the store. Its copies have the same id.
    pub fn store(&self) -> Uuid {
        self.store
    }

    /// Identifies the run of the store: revisions of different runs cannot be compared.
    pub fn run(&self) -> Uuid {
        self.run
    }

    /// The catalog as it stands.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.published.borrow().catalog.clone()
    }

    /// Makes a catalog, and the changes that led to it, known.
    pub(crate) fn publish(&self, catalog: Arc<Catalog>, changes: Vec<Change>) {
        self.published.send_modify(|published| {
            published.catalog = catalog;
            for change in changes {
                let bytes = size_of_change(&change);
                published.ring.push(change, bytes);
            }
        });
    }

    /// Where the catalog stands, and how to get there from a position.
    pub fn since(&self, applied: Option<Position>) -> (Position, Update) {
        let published = self.published.borrow();
        let revision = published.catalog.revision;
        let behind = applied
            .filter(|applied| applied.run == self.run)
            .and_then(|applied| revision.checked_sub(applied.revision))
            .and_then(|behind| usize::try_from(behind).ok())
            .filter(|behind| *behind <= published.ring.len());
        let update = match behind {
            Some(behind) => {
                let known = published.ring.len() - behind;
                Update::Changes { changes: published.ring.skip(known).cloned().collect() }
            }
            None => Update::Snapshot { snapshot: published.catalog.snapshot() },
        };
        (Position { run: self.run, revision }, update)
    }

    /// Tells of every publication from now on.
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.published.subscribe())
    }
}

/// Tells of publications.
pub(crate) struct Watch(watch::Receiver<Published>);

impl Watch {
    /// Waits for a publication since the last call, or since this began.
    pub(crate) async fn published(&mut self) {
        if self.0.changed().await.is_err() {
            // The feed is gone, and with it all that would be news.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::catalog::Snapshot;
    use clipper_rpc::names::ModelName;
    use proptest::prelude::*;

    use super::*;
    use crate::applications::{self, tests::app};
    use crate::catalog::Edit;
    use crate::models::{self, Adding, tests::doubles, tests::model_id};
    use crate::refusal::Refusal;

    fn at(feed: &Feed, revision: u64) -> Option<Position> {
        Some(Position { run: feed.run(), revision })
    }

    /// As the store does it: an edit that is refused changes nothing.
    fn edit(feed: &Feed, decide: impl FnOnce(&Catalog) -> Result<Edit, Refusal>) {
        let mut catalog = feed.catalog();
        if let Ok(edit) = decide(&catalog) {
            Arc::make_mut(&mut catalog).apply(&edit);
            feed.publish(catalog, edit.changes);
        }
    }

    /// What a frontend holds after an update.
    fn followed(before: &Snapshot, update: Update) -> Snapshot {
        let changes = match update {
            Update::Snapshot { snapshot } => return snapshot,
            Update::Changes { changes } => changes,
        };
        let mut catalog = Catalog::default();
        let before = before.clone();
        let put_models = before.models.into_iter().map(|model| Change::PutModel { model });
        let put_applications =
            before.applications.into_iter().map(|application| Change::PutApplication { application });
        catalog.apply(&Edit {
            changes: put_models.chain(put_applications).chain(changes).collect(),
            ..Edit::default()
        });
        catalog.snapshot()
    }

    #[test]
    fn one_that_is_up_to_date_gets_no_changes_and_one_that_is_behind_gets_the_rest() {
        let feed = Feed::new(Uuid::from_u128(1), Catalog::default());
        for name in ["a", "b", "c"] {
            edit(&feed, |catalog| applications::add(catalog, app(name, &[])));
        }
        assert_eq!(feed.since(at(&feed, 3)).1, Update::Changes { changes: vec![] });
        let (position, Update::Changes { changes }) = feed.since(at(&feed, 1)) else { panic!("a snapshot") };
        assert_eq!((position.revision, changes.len()), (3, 2));
    }

    #[test]
    fn one_of_another_run_or_too_far_behind_or_ahead_gets_a_snapshot() {
        let feed = Feed::new(Uuid::from_u128(1), Catalog { revision: 7, ..Catalog::default() });
        edit(&feed, |catalog| applications::add(catalog, app("a", &[])));
        let copy_of_the_store = Feed::new(feed.store(), Catalog::default());
        let other_run = at(&copy_of_the_store, 8);
        for applied in [None, other_run, at(&feed, 6), at(&feed, 9)] {
            assert!(matches!(feed.since(applied).1, Update::Snapshot { .. }), "{applied:?}");
        }
        assert!(matches!(feed.since(at(&feed, 7)).1, Update::Changes { .. }));
    }

    #[test]
    fn the_ring_forgets_the_oldest_changes() {
        let feed = Feed::new(Uuid::from_u128(1), Catalog::default());
        for _ in 0..RING.count {
            edit(&feed, |catalog| applications::add(catalog, app("a", &[])));
            edit(&feed, |catalog| applications::delete(catalog, "a".parse().unwrap()));
        }
        let behind = |changes: usize| at(&feed, 2 * RING.count as u64 - changes as u64);
        assert!(matches!(feed.since(behind(RING.count)).1, Update::Changes { .. }));
        assert!(matches!(feed.since(behind(RING.count + 1)).1, Update::Snapshot { .. }));
    }

    #[test]
    fn large_changes_are_forgotten_before_they_take_too_much_memory() {
        let feed = Feed::new(Uuid::from_u128(1), Catalog::default());
        let update = |text: String| applications::ApplicationUpdate {
            default_output: Some(text),
            ..Default::default()
        };
        edit(&feed, |catalog| applications::add(catalog, app("a", &[])));
        for number in 0..300 {
            let text = format!("{number:060000}");
            edit(&feed, |catalog| applications::update(catalog, "a".parse().unwrap(), update(text)));
        }
        assert!(matches!(feed.since(at(&feed, 1)).1, Update::Snapshot { .. }));
        assert!(matches!(feed.since(at(&feed, 200)).1, Update::Changes { .. }));
    }

    #[derive(Debug, Clone)]
    enum Operation {
        AddApplication(String, Option<String>),
        DeleteApplication(String),
        Link(String, String),
        Unlink(String, String),
        AddModel(String, String),
        SetVersion(String, String),
        DeleteVersion(String, String),
    }

    impl Operation {
        fn decide(self, catalog: &Catalog) -> Result<Edit, Refusal> {
            let models = |model: String| -> Vec<ModelName> { vec![model.parse().unwrap()] };
            match self {
                Self::AddApplication(name, linked) => {
                    applications::add(catalog, app(&name, &linked.as_deref().into_iter().collect::<Vec<_>>()))
                }
                Self::DeleteApplication(name) => applications::delete(catalog, name.parse().unwrap()),
                Self::Link(app, model) => applications::link(catalog, &app.parse().unwrap(), models(model)),
                Self::Unlink(app, model) => {
                    applications::unlink(catalog, &app.parse().unwrap(), &models(model))
                }
                Self::AddModel(name, version) => {
                    models::add(catalog, &model_id(&name, &version), doubles(), Adding::Current)
                }
                Self::SetVersion(name, version) => models::set_version(catalog, &model_id(&name, &version)),
                Self::DeleteVersion(name, version) => {
                    models::delete_version(catalog, &model_id(&name, &version))
                }
            }
        }
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let (app, model, version) = ("[ab]", "[mn]", "[12]");
        prop_oneof![
            (app, proptest::option::of(model)).prop_map(|(a, m)| Operation::AddApplication(a, m)),
            app.prop_map(Operation::DeleteApplication),
            (app, model).prop_map(|(a, m)| Operation::Link(a, m)),
            (app, model).prop_map(|(a, m)| Operation::Unlink(a, m)),
            (model, version).prop_map(|(m, v)| Operation::AddModel(m, v)),
            (model, version).prop_map(|(m, v)| Operation::SetVersion(m, v)),
            (model, version).prop_map(|(m, v)| Operation::DeleteVersion(m, v)),
        ]
    }

    proptest! {
        #[test]
        fn the_changes_since_any_revision_lead_to_the_present_catalog(
            operations in proptest::collection::vec(operation(), 1..40),
        ) {
            let feed = Feed::new(Uuid::from_u128(1), Catalog::default());
            let mut history = vec![(0, feed.catalog().snapshot())];
            for operation in operations {
                edit(&feed, |catalog| operation.decide(catalog));
                history.push((feed.catalog().revision, feed.catalog().snapshot()));
            }
            let present = feed.catalog().snapshot();
            for (revision, snapshot) in history {
                let (position, update) = feed.since(at(&feed, revision));
                prop_assert_eq!(position.revision, feed.catalog().revision);
                let once = followed(&snapshot, update.clone());
                prop_assert_eq!(&once, &present);
                // Changes carry whole records, so applying them again changes nothing.
                prop_assert_eq!(followed(&once, update), present.clone());
            }
        }
    }
}
