//! A container's session and a frontend's router, against each other over real sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clipper_rpc::codec::{CodecError, Frames};
use clipper_rpc::input::{Input, InputBatch, InputType};
use clipper_rpc::message::{FromContainer, Predict, Prediction, Register, Registered, ToContainer};
use clipper_rpc::output::OutputBatch;
use clipper_rpc::router::{BoundRouter, Loss, PeerId, Reception, RouterHandle, Standing};
use clipper_rpc::session::{Session, SessionEvent};

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
enum Heard {
    Message(PeerId, Result<FromContainer, CodecError>),
    Lost(PeerId, Loss),
}

struct Ears(Sender<Heard>);

impl Reception for Ears {
    fn received(&mut self, peer: PeerId, message: Result<Frames, CodecError>) -> Standing {
        let message =
            message.and_then(|frames| FromContainer::decode(&frames, [(5, 1), (6, 1), (7, 1)].into_iter()));
        // The test may be over.
        let _ = self.0.send(Heard::Message(peer, message));
        Standing::Registered
    }

    fn lost(&mut self, peer: PeerId, loss: Loss) {
        let _ = self.0.send(Heard::Lost(peer, loss));
    }
}

struct Frontend {
    address: SocketAddr,
    handle: RouterHandle,
    heard: Receiver<Heard>,
    router: Option<JoinHandle<()>>,
}

impl Frontend {
    fn start(address: SocketAddr) -> Self {
        let began = Instant::now();
        let bound = loop {
            match BoundRouter::bind(address) {
                Ok(bound) => break bound,
                // The port of a socket that was just closed may take a moment to be free.
                Err(error) => assert!(began.elapsed() < LIMIT, "{error}"),
            }
        };
        let (sender, heard) = channel();
        let (address, handle) = (bound.address(), bound.handle());
        let router = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime needs a few descriptors");
            runtime.block_on(bound.serve(Ears(sender))).expect("its sockets can be waited for");
        });
        Self { address, handle, heard, router: Some(router) }
    }

    fn session(&self, context: &zmq::Context) -> Session {
        let register = Register {
            protocol: 4,
            model: "m".into(),
            version: "1".into(),
            input_type: InputType::Doubles,
            token: None,
            max_batch_size: None,
            replica: None,
            sdk: None,
            instance: None,
        };
        Session::new(context, self.address.to_string(), register, Instant::now())
    }

    /// Drives the session until the frontend hears what is wanted.
    fn hear<T>(&self, session: &mut Session, mut wanted: impl FnMut(Heard) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            step(session);
            while let Ok(heard) = self.heard.try_recv() {
                if let Some(found) = wanted(heard) {
                    return found;
                }
            }
            assert!(began.elapsed() < LIMIT, "it was never heard");
        }
    }

    fn hear_register(&self, session: &mut Session) -> PeerId {
        self.hear(session, |heard| match heard {
            Heard::Message(peer, Ok(FromContainer::Register(_))) => Some(peer),
            _ => None,
        })
    }

    fn welcome(&self, peer: &PeerId) {
        let terms = Registered { replica: 0, heartbeat_millis: 20, timeout_millis: 200, frontends: None };
        self.handle.send(peer, &ToContainer::Registered(terms));
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        self.handle.shut_down();
        self.router.take().expect("it is taken here only").join().expect("it does not panic");
    }
}

fn step(session: &mut Session) -> Option<SessionEvent> {
    session.tick(Instant::now());
    if let Some(socket) = session.socket() {
        socket.poll(zmq::POLLIN, 1).expect("the socket is open");
    }
    session.receive(Instant::now())
}

fn event(session: &mut Session) -> SessionEvent {
    let began = Instant::now();
    loop {
        if let Some(event) = step(session) {
            return event;
        }
        assert!(began.elapsed() < LIMIT, "nothing happened");
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn a_container_registers_and_answers_a_batch() {
    let context = zmq::Context::new();
    let frontend = Frontend::start(any_port());
    let mut session = frontend.session(&context);
    let peer = frontend.hear_register(&mut session);
    frontend.welcome(&peer);
    let inputs = InputBatch::join(InputType::Doubles, &[Input::doubles(&[1.0, 2.0])]);
    let batch = Predict { id: 5, budget_micros: 1_000, inputs };
    frontend.handle.send(&peer, &ToContainer::Predict(batch.clone()));
    assert_eq!(event(&mut session), SessionEvent::Predict(batch));
    let answer = FromContainer::Prediction(Prediction {
        id: 5,
        elapsed_micros: 1,
        outputs: OutputBatch::doubles(&[3.0]),
        errors: BTreeMap::new(),
    });
    session.send(Instant::now(), &answer);
    let heard = frontend.hear(&mut session, |heard| match heard {
        Heard::Message(from, Ok(message @ FromContainer::Prediction(_))) if from == peer => Some(message),
        _ => None,
    });
    assert_eq!(heard, answer);
}

#[test]
fn a_container_that_is_gone_is_reported_without_being_sent_to() {
    let context = zmq::Context::new();
    let frontend = Frontend::start(any_port());
    let mut session = frontend.session(&context);
    let peer = frontend.hear_register(&mut session);
    frontend.welcome(&peer);
    frontend.hear(&mut session, |heard| match heard {
        Heard::Message(_, Ok(FromContainer::Heartbeat)) => Some(()),
        _ => None,
    });
    drop(session);
    let began = Instant::now();
    loop {
        match frontend.heard.recv_timeout(LIMIT).expect("the loss is reported") {
            Heard::Lost(gone, loss) => {
                assert_eq!((gone, loss), (peer, Loss::Disconnected));
                return;
            }
            Heard::Message(..) => assert!(began.elapsed() < LIMIT),
        }
    }
}

#[test]
fn sending_to_a_stranger_that_never_was_harms_nobody() {
    let context = zmq::Context::new();
    let frontend = Frontend::start(any_port());
    let mut gone = frontend.session(&context);
    let ghost = frontend.hear_register(&mut gone);
    drop(gone);
    let mut session = frontend.session(&context);
    let peer = frontend.hear_register(&mut session);
    frontend.handle.send(&ghost, &ToContainer::Drain);
    frontend.handle.send(&peer, &ToContainer::Drain);
    assert_eq!(event(&mut session), SessionEvent::Drain);
}

#[test]
fn a_container_registers_again_when_it_is_unknown() {
    let context = zmq::Context::new();
    let frontend = Frontend::start(any_port());
    let mut session = frontend.session(&context);
    let peer = frontend.hear_register(&mut session);
    frontend.welcome(&peer);
    frontend.handle.send(&peer, &ToContainer::Unknown);
    assert_eq!(frontend.hear_register(&mut session), peer);
}

fn batch(id: u64) -> Predict {
    let inputs = InputBatch::join(InputType::Doubles, &[Input::doubles(&[1.0, 2.0])]);
    Predict { id, budget_micros: 1_000, inputs }
}

fn answer(id: u64) -> FromContainer {
    let (outputs, errors) = (OutputBatch::doubles(&[3.0]), BTreeMap::new());
    FromContainer::Prediction(Prediction { id, elapsed_micros: 1, outputs, errors })
}

#[test]
fn a_container_registers_once_however_often_it_is_unknown() {
    let context = zmq::Context::new();
    let frontend = Frontend::start(any_port());
    let mut session = frontend.session(&context);
    let peer = frontend.hear_register(&mut session);
    frontend.welcome(&peer);
    for _ in 0..3 {
        frontend.handle.send(&peer, &ToContainer::Unknown);
    }
    frontend.hear_register(&mut session);
    frontend.welcome(&peer);
    frontend.handle.send(&peer, &ToContainer::Predict(batch(5)));
    assert_eq!(event(&mut session), SessionEvent::Predict(batch(5)));
    session.send(Instant::now(), &answer(5));
    frontend.hear(&mut session, |heard| match heard {
        Heard::Message(_, Ok(FromContainer::Prediction(_))) => Some(()),
        Heard::Message(_, Ok(FromContainer::Register(_))) => panic!("it registered again"),
        _ => None,
    });
}

/// Lets a container compute batch 5 and hold batch 7 while its frontend says something, and then
/// sends it batch 6. Returns the batches that the frontend hears answers to.
fn answered_after(said: impl Fn(&Frontend, &PeerId)) -> Vec<u64> {
    let context = zmq::Context::new();
    let frontend = Frontend::start(any_port());
    let mut session = frontend.session(&context);
    let peer = frontend.hear_register(&mut session);
    frontend.welcome(&peer);
    frontend.handle.send(&peer, &ToContainer::Predict(batch(5)));
    assert_eq!(event(&mut session), SessionEvent::Predict(batch(5)));
    let registration = session.registration();
    frontend.handle.send(&peer, &ToContainer::Predict(batch(7)));
    said(&frontend, &peer);
    let began = Instant::now();
    while session.registration() == registration {
        session.catch_up(Instant::now());
        assert!(began.elapsed() < LIMIT, "it goes on as before");
    }
    session.answer(Instant::now(), registration, &answer(5));
    frontend.welcome(&peer);
    frontend.handle.send(&peer, &ToContainer::Predict(batch(6)));
    let began = Instant::now();
    let mut answered = Vec::new();
    while !answered.contains(&6) {
        if let Some(SessionEvent::Predict(Predict { id, .. })) = step(&mut session) {
            let registration = session.registration();
            session.answer(Instant::now(), registration, &answer(id));
        }
        while let Ok(heard) = frontend.heard.try_recv() {
            if let Heard::Message(_, Ok(FromContainer::Prediction(prediction))) = heard {
                answered.push(prediction.id);
            }
        }
        assert!(began.elapsed() < LIMIT, "batch 6 is never answered");
    }
    answered
}

#[test]
fn a_container_drops_what_it_holds_when_it_is_unknown() {
    assert_eq!(answered_after(|frontend, peer| frontend.handle.send(peer, &ToContainer::Unknown)), [6]);
}

#[test]
fn a_container_drops_what_it_holds_when_it_is_welcomed_again() {
    assert_eq!(answered_after(Frontend::welcome), [6]);
}

#[test]
fn a_container_finds_a_frontend_that_was_restarted() {
    let context = zmq::Context::new();
    let frontend = Frontend::start(any_port());
    let address = frontend.address;
    let mut session = frontend.session(&context);
    let peer = frontend.hear_register(&mut session);
    frontend.welcome(&peer);
    drop(frontend);
    let successor = Frontend::start(address);
    let heard = successor.hear(&mut session, |heard| match heard {
        Heard::Message(peer, Ok(FromContainer::Heartbeat)) => {
            successor.handle.send(&peer, &ToContainer::Unknown);
            None
        }
        Heard::Message(_, Ok(FromContainer::Register(register))) => Some(register),
        _ => None,
    });
    assert_eq!(heard.model, "m");
}

#[test]
fn a_refusal_for_now_is_tried_again_on_a_fresh_connection_and_one_for_good_is_not() {
    let context = zmq::Context::new();
    let frontend = Frontend::start(any_port());
    let mut session = frontend.session(&context);
    let first = frontend.hear_register(&mut session);
    let reason = "not yet".to_owned();
    frontend.handle.send(&first, &ToContainer::Rejected { reason, retry_millis: Some(1) });
    let second = frontend.hear_register(&mut session);
    assert_ne!(first, second);
    let reason = "never".to_owned();
    frontend.handle.send(&second, &ToContainer::Rejected { reason: reason.clone(), retry_millis: None });
    assert_eq!(event(&mut session), SessionEvent::Rejected { reason });
    assert!(session.is_rejected() && session.socket().is_none() && session.next_tick().is_none());
}

#[test]
fn two_addresses_cannot_be_bound_at_once() {
    let frontend = Frontend::start(any_port());
    let error = BoundRouter::bind(frontend.address).err().expect("it is in use");
    assert!(error.to_string().contains("cannot listen for containers on 127.0.0.1:"), "{error}");
}
