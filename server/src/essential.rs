//! Parts of a process without which it must not go on answering: tasks, actors and threads.
//!
//! A panic ends the task or the thread that it happens in, and nothing else: the process would go on without that part,
//! and say that it is ready. Each such part therefore owns an [`EssentialPart`], and the server that started the parts
//! waits for [`Essentials::part_ended`] beside its shutdown. It returns that error, which ends the process. Requests and
//! connections of containers are no such parts: a panic there ends the one request or connection.
//!
//! Invariant: a part that is dropped without having been told to finish is reported, whatever dropped it.

use std::fmt::Display;
use std::sync::Arc;
use std::thread;

use tokio::sync::watch;

/// The essential parts of one server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Essentials {
    ended: Arc<watch::Sender<Option<PartEnded>>>,
}

/// An essential part that runs. Owned by the part.
#[derive(Debug)]
pub struct EssentialPart {
    name: String,
    /// The parts that this one belongs to; `None` once it may end.
    essentials: Option<Essentials>,
}

/// An essential part that has ended although nothing told it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an essential part has ended, {part}: {reason}")]
pub struct PartEnded {
    part: String,
    reason: String,
}

impl Essentials {
    /// A part that begins. `name` is read in the error that ends the process.
    pub fn part(&self, name: impl Into<String>) -> EssentialPart {
        EssentialPart { name: name.into(), essentials: Some(self.clone()) }
    }

    /// Waits until a part has ended that was not to. Returns the first one.
    pub async fn part_ended(&self) -> PartEnded {
        let mut ended = self.ended.subscribe();
        let first = ended.wait_for(Option::is_some).await;
        first
            .ok()
            .and_then(|first| first.clone())
            .expect("the sender is ours, and waited for until there is one")
    }

    fn report(&self, ended: PartEnded) {
        self.ended.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(ended);
            is_first
        });
    }
}

impl EssentialPart {
    /// Runs a task that is not to end before the server is shut down.
    pub async fn run(self, task: impl Future<Output = ()>) {
        task.await;
        drop(self);
    }

    /// Runs a task that is not to end before the server is shut down, and may fail.
    ///
    /// # Errors
    /// If the task fails, which is the reason then.
    pub async fn try_run<E: Display>(self, task: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let result = task.await;
        if let Err(reason) = &result {
            self.fail(reason);
        }
        result
    }

    /// The part ends in order: it is not needed any more.
    pub fn finish(&mut self) {
        self.essentials = None;
    }

    /// The part cannot go on.
    pub fn fail(mut self, reason: &dyn Display) {
        self.end(reason.to_string());
    }

    fn end(&mut self, reason: String) {
        if let Some(essentials) = self.essentials.take() {
            essentials.report(PartEnded { part: self.name.clone(), reason });
        }
    }
}

impl Drop for EssentialPart {
    fn drop(&mut self) {
        let reason = if thread::panicking() { "it panicked" } else { "nothing had told it to" };
        self.end(reason.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    fn told(essentials: &Essentials) -> Option<String> {
        essentials.part_ended().now_or_never().map(|ended| ended.to_string())
    }

    #[tokio::test]
    async fn a_task_that_panics_is_reported_with_its_name() {
        let essentials = Essentials::default();
        let part = essentials.part("the router");
        let waiting = tokio::spawn({
            let essentials = essentials.clone();
            async move { essentials.part_ended().await }
        });
        let task = tokio::spawn(part.run(async { panic!("out of cheese") }));
        assert!(task.await.unwrap_err().is_panic());
        let ended = timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
        assert_eq!(ended.to_string(), "an essential part has ended, the router: it panicked");
    }

    #[tokio::test]
    async fn a_task_that_returns_and_one_that_is_dropped_are_reported() {
        let essentials = Essentials::default();
        essentials.part("the exchange").run(async {}).await;
        let expected = "an essential part has ended, the exchange: nothing had told it to";
        assert_eq!(told(&essentials).unwrap(), expected);

        let essentials = Essentials::default();
        drop(essentials.part("the timers").run(pending()));
        assert!(told(&essentials).is_some());
    }

    #[test]
    fn a_thread_that_panics_is_reported() {
        let essentials = Essentials::default();
        let mut part = essentials.part("the writer");
        let thread = thread::spawn(move || {
            assert!(part.name.is_empty(), "it is not");
            part.finish();
        });
        assert!(thread.join().is_err());
        assert!(told(&essentials).unwrap().ends_with("the writer: it panicked"));
    }

    #[test]
    fn the_first_part_that_ended_is_the_reason() {
        let essentials = Essentials::default();
        let later = essentials.part("the exchange");
        essentials.part("the router").fail(&"its socket is closed");
        drop(later);
        assert!(told(&essentials).unwrap().ends_with("the router: its socket is closed"));
    }

    #[test]
    fn a_part_that_finishes_is_not_missed() {
        let essentials = Essentials::default();
        essentials.part("the actor of a deleted application").finish();
        assert_eq!(told(&essentials), None);
    }
}
