//! The queries that wait for one version of one model.
//!
//! Shared between the HTTP workers, which push, and the connections of its containers, which pull batches when they are
//! free. Both are plain calls under one lock, held for a heap operation or a batch of them. Invariant: while a wanted
//! task waits, no connection is idle; while no connection is here, no task waits.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clipper_rpc::input::InputType;
use clipper_rpc::names::ModelId;

use crate::metrics::ModelMetrics;
use crate::task::{Failure, MAX_ATTEMPTS, Task};

/// The most bytes of inputs in one batch of several; a single larger input travels alone.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// How often a full queue is looked through for tasks whose clients have gone.
const SWEEP_INTERVAL: Duration = Duration::from_millis(20);

/// A connection, within its queue.
pub type ConnectionId = u64;

/// Tells an idle connection that there is work.
pub type WakeUp = Box<dyn Fn() + Send>;

/// What a connection that asked for work gets.
pub enum Work {
    /// Tasks to answer, earliest deadline first; at least one.
    Batch(Vec<Task>),
    /// Nothing now: the connection will be woken.
    Idle,
    /// Nothing ever: the model's version is withdrawn.
    Closed,
}

/// The deadline-ordered queue of one version of one model.
pub struct Queue {
    model: ModelId,
    input_type: InputType,
    capacity: usize,
    metrics: Arc<ModelMetrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: BinaryHeap<Waiting>,
    /// Breaks ties between equal deadlines: first come, first served.
    pushed: u64,
    connections: Vec<Connection>,
    /// When all that waits was last looked through.
    swept: Option<Instant>,
    closed: bool,
}

struct Connection {
    id: ConnectionId,
    idle: bool,
    wake_up: WakeUp,
}

struct Waiting {
    task: Task,
    sequence: u64,
}

impl Queue {
    /// An empty queue of at most `capacity` tasks.
    pub fn new(model: ModelId, input_type: InputType, capacity: usize) -> Self {
        let metrics = Arc::new(ModelMetrics::new(Instant::now()));
        Self { model, input_type, capacity, metrics, state: Mutex::default() }
    }

    /// The version of the model that is served.
    pub fn model(&self) -> &ModelId {
        &self.model
    }

    /// The type of its inputs.
    pub fn input_type(&self) -> InputType {
        self.input_type
    }

    /// What is counted of the version.
    pub fn metrics(&self) -> &Arc<ModelMetrics> {
        &self.metrics
    }

    /// The number of tasks that wait, and of connections.
    pub fn depth(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting.len(), state.connections.len())
    }

    /// Accepts a task, and wakes an idle connection for it.
    ///
    /// # Errors
    /// If it cannot be answered: the task has then ended, with nobody told but the caller.
    pub fn push(&self, task: Task) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.closed {
            return Err(Failure::Draining { model: self.model.clone() });
        }
        if state.connections.is_empty() {
            return Err(Failure::NoConnectedReplicas { model: self.model.clone() });
        }
        if state.waiting.len() >= self.capacity {
            self.metrics.give_up(state.make_room(Instant::now()));
            if state.waiting.len() >= self.capacity {
                return Err(Failure::QueueFull { model: self.model.clone(), capacity: self.capacity });
            }
        }
        state.insert(task);
        state.wake_one();
        Ok(())
    }

    /// Takes back tasks whose container was lost by `loss`, or ends them where no other container can answer.
    pub fn requeue(&self, tasks: Vec<Task>, loss: &str) {
        let now = Instant::now();
        for task in tasks {
            if !task.is_wanted(now) {
                continue;
            }
            let mut state = self.lock();
            if task.attempts < MAX_ATTEMPTS && !state.connections.is_empty() {
                state.insert(task);
                state.wake_one();
                continue;
            }
            drop(state);
            let problem = format!("was lost while it held this query, attempt {}: {loss}", task.attempts);
            task.finish(Err(Failure::ContainerError { model: self.model.clone(), problem }));
        }
    }

    /// Takes at most `limit` of the wanted tasks with the earliest deadlines; without any the connection becomes idle.
    pub fn take(&self, connection: ConnectionId, limit: usize) -> Work {
        let now = Instant::now();
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut state = self.lock();
        while batch.len() < limit {
            let Some(next) = state.waiting.peek() else { break };
            bytes += next.task.input.data().len();
            if bytes > MAX_BATCH_BYTES && !batch.is_empty() {
                break;
            }
            let Waiting { mut task, .. } = state.waiting.pop().expect("it was just looked at");
            if task.is_wanted(now) {
                task.attempts += 1;
                batch.push(task);
            } else {
                self.metrics.give_up(1);
            }
        }
        if batch.is_empty() {
            if state.closed {
                return Work::Closed;
            }
            if let Some(connection) = state.connections.iter_mut().find(|known| known.id == connection) {
                connection.idle = true;
            }
            return Work::Idle;
        }
        Work::Batch(batch)
    }

    /// Adds a connection, which must ask for work once to become idle.
    pub fn join(&self, id: ConnectionId, wake_up: WakeUp) {
        self.lock().connections.push(Connection { id, idle: false, wake_up });
    }

    /// Removes a connection. If it was the last, every waiting task ends now.
    pub fn leave(&self, id: ConnectionId) {
        let mut state = self.lock();
        state.connections.retain(|connection| connection.id != id);
        if !state.connections.is_empty() {
            // The connection may have been woken for a task that it will not take now.
            state.wake_one();
            return;
        }
        let orphans = std::mem::take(&mut state.waiting);
        drop(state);
        for Waiting { task, .. } in orphans {
            task.finish(Err(Failure::NoConnectedReplicas { model: self.model.clone() }));
        }
    }

    /// Refuses tasks from now on. The connections empty the queue, and are then told that it is closed.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for connection in &mut state.connections {
            connection.idle = false;
            (connection.wake_up)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, task: Task) {
        self.pushed += 1;
        self.waiting.push(Waiting { task, sequence: self.pushed });
    }

    fn wake_one(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.idle) {
            connection.idle = false;
            (connection.wake_up)();
        }
    }

    /// Drops what nobody waits for any more: expired tasks, which are the first, at each call; those whose clients have
    /// gone, which may be anywhere, not so often that a full queue would do nothing else. How many they were.
    fn make_room(&mut self, now: Instant) -> usize {
        let before = self.waiting.len();
        while self.waiting.peek().is_some_and(|first| !first.task.is_wanted(now)) {
            self.waiting.pop();
        }
        if self.swept.is_none_or(|swept| now - swept >= SWEEP_INTERVAL) {
            self.swept = Some(now);
            self.waiting.retain(|waiting| waiting.task.is_wanted(now));
        }
        before - self.waiting.len()
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    /// The greatest is the one to be answered first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.task.deadline, other.sequence).cmp(&(self.task.deadline, self.sequence))
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::input::Input;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    use super::*;
    use crate::task::Outcome;

    fn queue(capacity: usize) -> Queue {
        let model = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        Queue::new(model, InputType::Strings, capacity)
    }

    fn task(text: &str, millis: u64) -> (Task, oneshot::Receiver<Outcome>) {
        Task::new(Input::string(text), Instant::now() + Duration::from_millis(millis))
    }

    fn joined(queue: &Queue, id: ConnectionId) -> Arc<AtomicUsize> {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        queue.join(
            id,
            Box::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
            }),
        );
        wakes
    }

    fn texts(work: Work) -> Vec<String> {
        match work {
            Work::Batch(tasks) => {
                tasks.iter().map(|task| String::from_utf8(task.input.data().to_vec()).unwrap()).collect()
            }
            Work::Idle => panic!("idle"),
            Work::Closed => panic!("closed"),
        }
    }

    #[test]
    fn the_earliest_deadline_is_taken_first_and_equals_in_order_of_arrival() {
        let queue = queue(10);
        joined(&queue, 1);
        let at = Instant::now() + Duration::from_secs(9);
        let mut answers = Vec::new();
        for (text, deadline) in [("late", at + Duration::from_secs(1)), ("a", at), ("b", at), ("c", at)] {
            let (task, answer) = Task::new(Input::string(text), deadline);
            queue.push(task).unwrap();
            answers.push(answer);
        }
        assert_eq!(texts(queue.take(1, 3)), ["a", "b", "c"]);
        assert_eq!(texts(queue.take(1, 3)), ["late"]);
    }

    #[test]
    fn a_task_that_nobody_waits_for_is_never_taken() {
        let queue = queue(10);
        joined(&queue, 1);
        let (gone, answer) = task("gone", 60_000);
        drop(answer);
        let (expired, _answer) = Task::new(Input::string("expired"), Instant::now());
        queue.push(gone).unwrap();
        queue.push(expired).unwrap();
        assert!(matches!(queue.take(1, 10), Work::Idle));
    }

    #[test]
    fn a_full_queue_refuses_but_first_drops_what_nobody_waits_for() {
        let queue = queue(1);
        joined(&queue, 1);
        let (first, answer) = task("first", 60_000);
        queue.push(first).unwrap();
        let (second, _answer) = task("second", 60_000);
        assert_eq!(queue.push(second).unwrap_err().reason(), "queue_full");
        drop(answer);
        let (third, _answer) = task("third", 60_000);
        queue.push(third).unwrap();
        assert_eq!(texts(queue.take(1, 10)), ["third"]);
    }

    #[test]
    fn a_full_queue_is_not_looked_through_for_every_query_that_it_refuses() {
        let queue = queue(50_000);
        joined(&queue, 1);
        let mut answers = Vec::new();
        for _ in 0..50_000 {
            let (task, answer) = task("waiting", 60_000);
            queue.push(task).unwrap();
            answers.push(answer);
        }
        let began = Instant::now();
        for _ in 0..50_000 {
            assert_eq!(queue.push(task("refused", 60_000).0).unwrap_err().reason(), "queue_full");
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn only_an_idle_connection_is_woken_and_once() {
        let queue = queue(10);
        let wakes = joined(&queue, 1);
        let (first, _first) = task("first", 60_000);
        queue.push(first).unwrap();
        assert_eq!(wakes.load(Ordering::SeqCst), 0, "it has not asked yet");
        texts(queue.take(1, 10));
        assert!(matches!(queue.take(1, 10), Work::Idle));
        let (second, _second) = task("second", 60_000);
        let (third, _third) = task("third", 60_000);
        queue.push(second).unwrap();
        queue.push(third).unwrap();
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_task_is_refused_at_once_where_no_container_is_connected() {
        let (task, _answer) = task("x", 60_000);
        assert_eq!(queue(1).push(task).unwrap_err().reason(), "no_connected_replicas");
    }

    #[test]
    fn the_last_connection_to_leave_ends_every_waiting_task() {
        let queue = queue(10);
        joined(&queue, 1);
        let (task, mut answer) = task("x", 60_000);
        queue.push(task).unwrap();
        queue.leave(1);
        assert_eq!(answer.try_recv().unwrap().unwrap_err().reason(), "no_connected_replicas");
    }

    #[test]
    fn work_that_a_leaving_connection_was_woken_for_goes_to_another() {
        let queue = queue(10);
        let (first, second) = (joined(&queue, 1), joined(&queue, 2));
        assert!(matches!(queue.take(1, 1), Work::Idle));
        assert!(matches!(queue.take(2, 1), Work::Idle));
        let (task, _answer) = task("x", 60_000);
        queue.push(task).unwrap();
        assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (1, 0));
        queue.leave(1);
        assert_eq!(second.load(Ordering::SeqCst), 1);
        assert_eq!(texts(queue.take(2, 1)), ["x"]);
    }

    #[test]
    fn a_requeued_task_is_tried_again_but_not_for_ever() {
        let queue = queue(10);
        joined(&queue, 1);
        let (task, mut answer) = task("poison", 60_000);
        queue.push(task).unwrap();
        for _ in 0..MAX_ATTEMPTS {
            let Work::Batch(batch) = queue.take(1, 1) else { panic!("it should wait") };
            queue.requeue(batch, "it broke");
        }
        assert!(matches!(queue.take(1, 1), Work::Idle));
        assert_eq!(answer.try_recv().unwrap().unwrap_err().reason(), "container_error");
    }

    #[test]
    fn a_closed_queue_is_emptied_before_its_connections_are_sent_home() {
        let queue = queue(10);
        joined(&queue, 1);
        let (accepted, _answer) = task("accepted", 60_000);
        queue.push(accepted).unwrap();
        queue.close();
        let (refused, _answer) = task("refused", 60_000);
        assert_eq!(queue.push(refused).unwrap_err().reason(), "draining");
        assert_eq!(texts(queue.take(1, 10)), ["accepted"]);
        assert!(matches!(queue.take(1, 10), Work::Closed));
    }
}
