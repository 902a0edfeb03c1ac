//! The actor of one application: it turns what management says of it into the view that its queries read, and owns what it
//! learns from feedback.
//!
//! It ends when the directory lets go of it. Invariant: the published view is that of the last configuration.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use arc_swap::ArcSwap;
use clipper_rpc::catalog;
use clipper_rpc::output::Output;
use clipper_rpc::selection::{Policy, Selection};
use clipper_server::EssentialPart;

use super::ApplicationView;
use super::admission::Admission;
use crate::metrics::ApplicationMetrics;
use crate::queue::ModelView;
use crate::selection::learning::{Collected, Learning, News, Room};
use crate::selection::lessons::{Lessons, LessonsWait};
use crate::selection::{Facilities, Selector};

/// An objective beyond this is as good as none, and deadlines must stay representable.
const LONGEST_OBJECTIVE: Duration = Duration::from_secs(365 * 24 * 3600);

/// So many lessons are learned from before what follows is published.
const LESSONS_AT_ONCE: usize = 256;

/// Owns one application.
pub struct Application {
    view: Arc<ArcSwap<ApplicationView>>,
    facilities: Arc<Facilities>,
    lessons: Arc<Lessons>,
    /// None without a policy.
    learning: Option<Learning>,
    /// Reports an end of this actor while its application exists.
    part: EssentialPart,
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
}

/// Say what is to be exchanged with management, as far as there is room, and what room is left;
/// none without a policy.
#[derive(Message)]
#[rtype(result = "Option<(Collected, Room)>")]
pub struct Collect(pub Room);

/// Management refuses what was collected last, and will not be asked again.
#[derive(Message)]
#[rtype(result = "()")]
pub struct DropSent;

/// Management has answered.
#[derive(Message)]
#[rtype(result = "()")]
pub struct TakeIn(pub News);

/// What of an application outlives its configuration.
struct Lasting<'a> {
    admission: Arc<Admission>,
    metrics: Arc<ApplicationMetrics>,
    facilities: &'a Facilities,
    lessons: &'a Arc<Lessons>,
}

impl Application {
    /// Starts the actor of an application on a thread of actors.
    pub fn launch(
        configure: Configure,
        facilities: &Arc<Facilities>,
        arbiter: &ArbiterHandle,
        part: EssentialPart,
    ) -> ApplicationHandle {
        let (facilities, lessons, mut learning) = (Arc::clone(facilities), Arc::default(), None);
        let lasting = Lasting {
            admission: Arc::default(),
            metrics: Arc::new(ApplicationMetrics::new(Instant::now())),
            facilities: &facilities,
            lessons: &lessons,
        };
        let view = Arc::new(ArcSwap::from_pointee(configure.into_view(lasting, &mut learning)));
        let application =
            Self { view: Arc::clone(&view), facilities, lessons: Arc::clone(&lessons), learning, part };
        let actor = Self::start_in_arbiter(arbiter, move |_| application);
        lessons.tell(actor.downgrade().recipient());
        ApplicationHandle { actor, view }
    }
}

impl Configure {
    /// What queries see, and what is learned from now on.
    fn into_view(self, lasting: Lasting<'_>, learning: &mut Option<Learning>) -> ApplicationView {
        let Self { application, models } = self;
        let models: Vec<_> = models
            .into_iter()
            .map(|mut model| {
                model.versions.retain(|_, version| version.queue.input_type() == application.input_type);
                Arc::new(model)
            })
            .collect();
        let selector = lasting.selector(&application, &models, learning);
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
            admission: lasting.admission,
            metrics: lasting.metrics,
        }
    }
}

impl Lasting<'_> {
    /// What selects among those models that could answer, if the application has a policy and there are any.
    fn selector(
        &self,
        application: &catalog::Application,
        models: &[Arc<ModelView>],
        learning: &mut Option<Learning>,
    ) -> Option<Arc<Selector>> {
        let selection: &Selection = &application.selection;
        if selection.policy == Policy::DefaultOutput {
            self.metrics.candidates(&[]);
            *learning = None;
            self.metrics.feedback.set_unsent(0);
            return None;
        }
        // One that cannot answer for a while keeps its counts.
        let linked: Vec<_> = models.iter().map(|model| &model.name).collect();
        let counts = self.metrics.candidates(&linked);
        let could_answer = models.iter().zip(counts).filter(|(model, _)| model.current().is_ok());
        let (models, counts): (Vec<_>, Vec<_>) =
            could_answer.map(|(model, counts)| (Arc::clone(model), counts)).unzip();
        if models.is_empty() {
            return None;
        }
        let names: Vec<_> = models.iter().map(|model| model.name.clone()).collect();
        let configured = Learning::configure(
            learning.take(),
            application.name.clone(),
            selection,
            &names,
            self.facilities,
            self.lessons,
            &self.metrics,
        );
        let selector = Selector {
            selection: selection.clone(),
            learner: configured.learner().clone(),
            models,
            counts,
            states: Arc::clone(configured.states()),
            decisions: Arc::clone(&self.facilities.decisions),
        };
        *learning = Some(configured);
        Some(Arc::new(selector))
    }
}

impl Actor for Application {
    type Context = Context<Self>;

    /// Not called after a panic.
    fn stopped(&mut self, _: &mut Self::Context) {
        self.part.finish();
    }
}

impl Handler<Configure> for Application {
    type Result = ();

    fn handle(&mut self, configure: Configure, _: &mut Self::Context) {
        let former = self.view.load();
        let lasting = Lasting {
            admission: Arc::clone(&former.admission),
            metrics: Arc::clone(&former.metrics),
            facilities: &self.facilities,
            lessons: &self.lessons,
        };
        self.view.store(Arc::new(configure.into_view(lasting, &mut self.learning)));
    }
}

impl Handler<LessonsWait> for Application {
    type Result = ();

    fn handle(&mut self, _: LessonsWait, ctx: &mut Self::Context) {
        let Some(learning) = &mut self.learning else {
            // They were put by requests that saw an earlier view.
            drop((self.lessons.take(usize::MAX), self.lessons.take_outcomes()));
            return;
        };
        if learning.learn(LESSONS_AT_ONCE) {
            ctx.notify(LessonsWait);
        }
    }
}

impl Handler<Collect> for Application {
    type Result = Option<(Collected, Room)>;

    fn handle(&mut self, Collect(mut room): Collect, _: &mut Self::Context) -> Self::Result {
        let collected = self.learning.as_mut()?.collect(&mut room);
        Some((collected, room))
    }
}

impl Handler<DropSent> for Application {
    type Result = ();

    fn handle(&mut self, _: DropSent, _: &mut Self::Context) {
        if let Some(learning) = &mut self.learning {
            learning.drop_sent();
        }
    }
}

impl Handler<TakeIn> for Application {
    type Result = ();

    fn handle(&mut self, TakeIn(news): TakeIn, _: &mut Self::Context) {
        if let Some(learning) = &mut self.learning {
            learning.take_in(news);
        }
    }
}
