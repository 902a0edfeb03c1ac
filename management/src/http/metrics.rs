//! What management counts, for Prometheus and as the original's JSON.
//!
//! Everything is read off the present state when it is asked for.

use std::fmt;

use actix_web::{HttpRequest, HttpResponse, get, web};
use clipper_server::process::Process;
use clipper_server::{Connections, Families, Form, Report, text};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use crate::admin::Admin;
use crate::deployment::ReplicaState;

/// The states of a replica, as metrics name them.
const STATES: [(ReplicaState, &str); 4] = [
    (ReplicaState::Starting, "starting"),
    (ReplicaState::Ready, "ready"),
    (ReplicaState::BackingOff, "backing_off"),
    (ReplicaState::Failed, "failed"),
];

/// How many there are of everything.
#[derive(Debug)]
struct Counts {
    /// The name, the meaning and the number of what there is one of.
    lone: [(&'static str, &'static str, u64); 6],
    /// The replicas by state.
    replicas: [(&'static str, u64); 4],
}

impl Counts {
    async fn of(admin: &Admin) -> Self {
        let catalog = admin.catalog();
        let deployments = admin.deployments.list().await;
        let replicas: Vec<_> = deployments.iter().flat_map(|deployment| &deployment.replicas).collect();
        let in_state = |state| replicas.iter().filter(|replica| replica.state == state).count() as u64;
        let (applications, models) = (catalog.applications.len() as u64, catalog.models.len() as u64);
        let (frontends, containers) = (admin.frontends().count() as u64, admin.containers().len() as u64);
        Self {
            lone: [
                ("applications", "Registered applications", applications),
                ("models", "Registered models", models),
                ("deployments", "Deployments on this host", catalog.deployments.len() as u64),
                ("frontends", "Frontends that follow this management", frontends),
                ("containers", "Containers connected to frontends", containers),
                ("catalog_revision", "The number of the catalog's state", catalog.revision),
            ],
            replicas: STATES.map(|(state, name)| (name, in_state(state))),
        }
    }

    fn report(&self) -> Report {
        let mut report = Report::default();
        for (name, _, count) in self.lone {
            report.counter(format!("management:{name}"), count);
        }
        for (state, count) in self.replicas {
            report.counter(format!("management:replicas:{state}"), count);
        }
        report
    }
}

impl Collector for Counts {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families::new(encoder);
        for (name, help, count) in self.lone {
            families.lone_gauge(&format!("clipper_management_{name}"), help, None, count)?;
        }
        families.gauge(
            "clipper_management_replicas",
            "Replicas of deployments on this host, by state",
            None,
            self.replicas.map(|(state, count)| ([("state", state)], count)),
        )
    }
}

async fn answer(admin: &Admin, connections: &Connections, request: &HttpRequest) -> HttpResponse {
    let counts = Counts::of(admin).await;
    let form = Form::asked_by(request);
    form.answer(match form {
        Form::Text => {
            let mut registry = Registry::default();
            registry.register_collector(Box::new(counts));
            registry.register_collector(Box::new(connections.clone()));
            registry.register_collector(Box::new(Process));
            text(&registry)
        }
        Form::Json => counts.report().to_json(),
    })
}

/// Reports counts in the text format of Prometheus, or in the original Clipper's JSON where `Accept` prefers it.
#[utoipa::path(
    responses((status = 200, description = "Metrics", content(
        (String = "application/openmetrics-text"),
        (Object = "application/json"),
    ))),
    tag = "status"
)]
#[get("/metrics")]
pub(super) async fn metrics(
    admin: web::Data<Admin>,
    connections: web::Data<Connections>,
    request: HttpRequest,
) -> HttpResponse {
    answer(&admin, &connections, &request).await
}

/// Reports the same as `/metrics`, where the original Clipper did.
#[utoipa::path(
    responses((status = 200, description = "Metrics", content(
        (String = "application/openmetrics-text"),
        (Object = "application/json"),
    ))),
    tag = "status"
)]
#[get("/admin/metrics")]
pub(super) async fn admin_metrics(
    admin: web::Data<Admin>,
    connections: web::Data<Connections>,
    request: HttpRequest,
) -> HttpResponse {
    answer(&admin, &connections, &request).await
}
