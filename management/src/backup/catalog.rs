//! The catalog as a backup holds it: every record, deployments that are still pending included.

use std::sync::Arc;

use clipper_rpc::catalog::{Application, Change, Model, Revision};
use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, Edit};
use crate::deployments::Deployment;

/// See the module's documentation.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CatalogRecords {
    pub(super) revision: Revision,
    next_frontend_number: u64,
    applications: Vec<Arc<Application>>,
    models: Vec<Arc<Model>>,
    deployments: Vec<Arc<Deployment>>,
}

impl CatalogRecords {
    /// The records of a catalog.
    pub(super) fn of(catalog: &Catalog) -> Self {
        Self {
            revision: catalog.revision,
            next_frontend_number: catalog.next_frontend_number,
            applications: catalog.applications.values().cloned().collect(),
            models: catalog.models.values().cloned().collect(),
            deployments: catalog.deployments.values().cloned().collect(),
        }
    }

    /// The edit that leads from an empty catalog to this one.
    pub(super) fn into_edit(self) -> Edit {
        let models =
            self.models.into_iter().map(|model| Change::PutModel { model: Arc::unwrap_or_clone(model) });
        let applications = self
            .applications
            .into_iter()
            .map(|application| Change::PutApplication { application: Arc::unwrap_or_clone(application) });
        let deployments = self.deployments.into_iter().map(Arc::unwrap_or_clone);
        Edit {
            changes: models.chain(applications).collect(),
            deployments: deployments.map(|it| (it.spec.model.clone(), Some(it))).collect(),
            next_frontend_number: Some(self.next_frontend_number),
        }
    }
}
