//! The actor of one application: it turns what management says of it into the view that its queries read.
//!
//! It ends when the directory lets go of it. Invariant: the published view is that of the last configuration.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use arc_swap::ArcSwap;
use clipper_rpc::catalog;
use clipper_rpc::output::Output;
use clipper_rpc::selection::{Policy, Selection};
use clipper_selection::learner::Learner;

use crate::admission::Admission;
use crate::metrics::ApplicationMetrics;
use crate::selection::Selector;
use crate::selection::decisions::Decisions;
use crate::selection::states::States;
use crate::view::{ApplicationView, ModelView};

/// An objective beyond this is as good as none, and deadlines must stay representable.
const LONGEST_OBJECTIVE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Owns one application.
pub struct Application {
    view: Arc<ArcSwap<ApplicationView>>,
}

/// An application's actor, and the view that it publishes.
#[derive(Clone)]
pub struct ApplicationHandle {
    /// Receives changes.
    pub actor: Addr<Application>,
    /// What its queries need to know.
    pub view: Arc<ArcSwap<ApplicationView>>,
}

/// What the application is from now on, with the models that it is linked to.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Configure {
    /// The application, as management has it.
    pub application: catalog::Application,
    /// The linked models, in the order in which they were linked.
    pub models: Vec<ModelView>,
    /// Where decisions among them are kept.
    pub decisions: Arc<Decisions>,
}

impl Application {
    /// Starts the actor of an application.
    pub fn launch(configure: Configure) -> ApplicationHandle {
        let (admission, metrics) = (Arc::default(), Arc::new(ApplicationMetrics::new(Instant::now())));
        let view = Arc::new(ArcSwap::from_pointee(configure.into_view(admission, metrics)));
        let actor = Self { view: Arc::clone(&view) }.start();
        ApplicationHandle { actor, view }
    }
}

impl Configure {
    /// What queries see, with what is counted of the application, whatever its configuration.
    fn into_view(self, admission: Arc<Admission>, metrics: Arc<ApplicationMetrics>) -> ApplicationView {
        let Self { application, models, decisions } = self;
        let models: Vec<_> = models
            .into_iter()
            .map(|mut model| {
                model.versions.retain(|_, version| version.queue.input_type() == application.input_type);
                Arc::new(model)
            })
            .collect();
        let selector = selector(application.selection, &models, &metrics, decisions);
        ApplicationView {
            name: application.name,
            input_type: application.input_type,
            latency_slo: Duration::from_micros(application.latency_slo_micros).min(LONGEST_OBJECTIVE),
            default_output: Output::text(application.default_output),
            linked_models: models.len(),
            model: models.into_iter().next(),
            selector,
            cache: application.cache,
            max_concurrent_requests: application.max_concurrent_requests,
            on_overload: application.on_overload,
            admission,
            metrics,
        }
    }
}

/// What selects among those models that could answer, if the application has a policy and there are any.
fn selector(
    selection: Selection,
    models: &[Arc<ModelView>],
    metrics: &ApplicationMetrics,
    decisions: Arc<Decisions>,
) -> Option<Arc<Selector>> {
    let models: Vec<_> = models.iter().filter(|model| model.current().is_ok()).map(Arc::clone).collect();
    if selection.policy == Policy::DefaultOutput || models.is_empty() {
        return None;
    }
    let names: Vec<_> = models.iter().map(|model| model.name.clone()).collect();
    let learner = Learner::new(&selection.policy, &names);
    let counts = names.iter().map(|name| metrics.candidate(name)).collect();
    let states = Arc::new(States {});
    Some(Arc::new(Selector { selection, learner, models, counts, states, decisions }))
}

impl Actor for Application {
    type Context = Context<Self>;
}

impl Handler<Configure> for Application {
    type Result = ();

    fn handle(&mut self, configure: Configure, _: &mut Self::Context) {
        let former = self.view.load();
        let (admission, metrics) = (Arc::clone(&former.admission), Arc::clone(&former.metrics));
        self.view.store(Arc::new(configure.into_view(admission, metrics)));
    }
}
