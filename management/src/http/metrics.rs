//! What management counts, for Prometheus and as the original's JSON.
//!
//! Everything is read off the present state when it is asked for, but not more often than once in [`MAX_AGE`]: anyone may
//! ask, and to count takes work in proportion to the catalog.

use std::fmt;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, get, web};
use clipper_server::process::Process;
use clipper_server::{Connections, Families, Form, Report, text};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::deployment::ReplicaState;
use crate::frontends::Standing;

/// The states of a replica, as metrics name them.
const STATES: [(ReplicaState, &str); 4] = [
    (ReplicaState::Starting, "starting"),
    (ReplicaState::Ready, "ready"),
    (ReplicaState::BackingOff, "backing_off"),
    (ReplicaState::Failed, "failed"),
];

/// The age up to which counts are answered again.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The last counts and when they were made. Held while they are made anew, so that other requests wait for them.
#[derive(Debug, Default)]
pub(super) struct LastCounts(Mutex<Option<(Instant, Counts)>>);

impl LastCounts {
    async fn get(&self, count: impl Future<Output = Counts>) -> Counts {
        let mut last = self.0.lock().await;
        match &*last {
            Some((made, counts)) if made.elapsed() < MAX_AGE => counts.clone(),
            _ => last.insert((Instant::now(), count.await)).1.clone(),
        }
    }
}

/// How many there are of everything.
#[derive(Debug, Clone)]
struct Counts {
    /// The name, the meaning and the number of what there is one of.
    lone: [(&'static str, &'static str, u64); 7],
    /// The replicas by state.
    replicas: [(&'static str, u64); 4],
    /// The frontends that follow.
    frontends: Vec<Standing>,
    /// Changes of what is learned that were not stored.
    left_out: u64,
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
                ("selection_users", "Users of whom something is learned", admin.follow.states.users()),
            ],
            replicas: STATES.map(|(state, name)| (name, in_state(state))),
            frontends: admin.frontends().standings(),
            left_out: admin.follow.states.left_out(),
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
        report.counter("management:selection_changes_left_out".into(), self.left_out);
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
        )?;
        let labels: Vec<_> = self.frontends.iter().map(|it| (it.number.to_string(), it)).collect();
        let each = || {
            labels.iter().map(|(number, it)| {
                ([("frontend", number.as_str()), ("address", it.query_address.as_str())], *it)
            })
        };
        families.gauge(
            "clipper_management_frontend_revision",
            "The revision of the catalog that a frontend has applied",
            None,
            each().map(|(labels, it)| (labels, it.revision.unwrap_or_default())),
        )?;
        families.gauge(
            "clipper_management_frontend_last_contact",
            "Time since the last call of a frontend",
            Some(&Unit::Seconds),
            each().map(|(labels, it)| (labels, it.last_contact_seconds)),
        )?;
        families.lone_counter(
            "clipper_management_selection_changes_left_out",
            "Changes of what is learned that were not stored: of too many users, or not admissible",
            None,
            self.left_out,
        )
    }
}

async fn answer(
    admin: &Admin,
    last: &LastCounts,
    connections: &Connections,
    request: &HttpRequest,
) -> HttpResponse {
    let counts = last.get(Counts::of(admin)).await;
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
    last: web::Data<LastCounts>,
    connections: web::Data<Connections>,
    request: HttpRequest,
) -> HttpResponse {
    answer(&admin, &last, &connections, &request).await
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
    last: web::Data<LastCounts>,
    connections: web::Data<Connections>,
    request: HttpRequest,
) -> HttpResponse {
    answer(&admin, &last, &connections, &request).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_are_made_once_a_second_however_many_ask() {
        let (last, made) = (LastCounts::default(), AtomicU64::new(0));
        let count = || async {
            tokio::task::yield_now().await;
            let left_out = 1 + made.fetch_add(1, Ordering::Relaxed);
            Counts { lone: [("", "", 0); 7], replicas: [("", 0); 4], frontends: Vec::new(), left_out }
        };
        let asked = futures_util::future::join_all((0..100).map(|_| last.get(count()))).await;
        assert!(asked.iter().all(|counts| counts.left_out == 1));
        tokio::time::advance(MAX_AGE).await;
        assert_eq!(last.get(count()).await.left_out, 2);
    }
}
