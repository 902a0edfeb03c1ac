//! A container that says whatever a test makes it say: a bare DEALER socket and the protocol's types.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clipper_rpc::codec::Frames;
use clipper_rpc::input::InputType;
use clipper_rpc::message::{
    FromContainer, PROTOCOL_VERSION, Predict, Prediction, Register, Registered, ToContainer,
};
use clipper_rpc::output::OutputBatch;
use zmq::{DONTWAIT, SNDMORE};

use crate::cluster::Cluster;
use crate::wait::eventually_some;

/// How long it may be silent: well below the timeout of any frontend.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// A container made by hand. It keeps itself alive while it is received from.
pub struct RawContainer {
    socket: zmq::Socket,
    last_sent: Instant,
    _context: zmq::Context,
}

impl RawContainer {
    /// Connects over TCP, and says nothing yet.
    pub fn connect(frontend: SocketAddr) -> Self {
        Self::connect_to(&format!("tcp://{frontend}"))
    }

    /// Connects to a ZeroMQ endpoint, and says nothing yet.
    pub fn connect_to(endpoint: &str) -> Self {
        let context = zmq::Context::new();
        let socket = context.socket(zmq::DEALER).expect("a context has sockets");
        socket.set_linger(0).expect("0 is a time");
        socket.connect(endpoint).expect("it is an address");
        Self { socket, last_sent: Instant::now(), _context: context }
    }

    /// Connects to the first frontend, and registers version 1 of a model that takes doubles.
    pub async fn register(cluster: &Cluster, model: &str) -> Self {
        let mut container = Self::connect(cluster.rpc_address(0));
        container.registered(Self::registration(model)).await;
        container
    }

    /// What a well-behaved container of version 1 of a model that takes doubles says first.
    pub fn registration(model: &str) -> Register {
        Register {
            protocol: PROTOCOL_VERSION,
            model: model.to_owned(),
            version: "1".to_owned(),
            input_type: InputType::Doubles,
            token: None,
            max_batch_size: None,
            replica: None,
            sdk: None,
            instance: None,
        }
    }

    /// Registers, which must succeed.
    pub async fn registered(&mut self, register: Register) -> Registered {
        self.send(&FromContainer::Register(register));
        match self.receive().await {
            ToContainer::Registered(registered) => registered,
            other => panic!("expected to be registered, found {other:?}"),
        }
    }

    /// Sends a message.
    pub fn send(&mut self, message: &FromContainer) {
        let Frames { header, payload } = message.encode();
        let mut frames = vec![Vec::new(), header.to_vec()];
        frames.extend(payload.map(|payload| payload.to_vec()));
        self.send_frames(frames);
    }

    /// Sends frames, whatever they are.
    pub fn send_frames(&mut self, frames: Vec<Vec<u8>>) {
        self.last_sent = Instant::now();
        let last = frames.len() - 1;
        for (index, frame) in frames.into_iter().enumerate() {
            let flags = if index < last { DONTWAIT | SNDMORE } else { DONTWAIT };
            self.socket.send(frame, flags).expect("there is room for a message");
        }
    }

    /// Answers a batch with as many outputs as `values` has.
    pub fn answer(&mut self, id: u64, values: &[f64]) {
        let outputs = OutputBatch::doubles(values);
        let errors = Default::default();
        self.send(&FromContainer::Prediction(Prediction { id, elapsed_micros: 1, outputs, errors }));
    }

    /// Waits for a batch, and answers each of its inputs with `value`; the inputs.
    pub async fn answer_next(&mut self, value: f64) -> Vec<Vec<f64>> {
        let batch = self.batch().await;
        self.answer(batch.id, &vec![value; batch.inputs.len()]);
        numbers(&batch)
    }

    /// Blocks until a message arrives, at most so long.
    pub fn wait(&self, at_most: Duration) {
        let millis = i64::try_from(at_most.as_millis()).expect("tests are short");
        self.socket.poll(zmq::POLLIN, millis).expect("it is a socket");
    }

    /// Waits for a message that is no heartbeat.
    pub async fn receive(&mut self) -> ToContainer {
        eventually_some("a frontend says something", async || self.try_receive()).await
    }

    /// Waits for a batch.
    pub async fn batch(&mut self) -> Predict {
        match self.receive().await {
            ToContainer::Predict(predict) => predict,
            other => panic!("expected a batch, found {other:?}"),
        }
    }

    /// Waits for `rejected`, and says with which reason and whether to try again.
    pub async fn rejected(&mut self) -> (String, Option<u64>) {
        match self.receive().await {
            ToContainer::Rejected { reason, retry_millis } => (reason, retry_millis),
            other => panic!("expected to be rejected, found {other:?}"),
        }
    }

    /// A message that has arrived and is no heartbeat.
    pub fn try_receive(&mut self) -> Option<ToContainer> {
        if self.last_sent.elapsed() > HEARTBEAT {
            self.send(&FromContainer::Heartbeat);
        }
        while let Ok(frames) = self.socket.recv_multipart(DONTWAIT) {
            let frames = Frames::from_multipart(frames.into_iter().map(Bytes::from).collect());
            let message = frames.and_then(|frames| ToContainer::decode(&frames));
            match message.expect("a frontend speaks the protocol") {
                ToContainer::Heartbeat { .. } => {}
                message => return Some(message),
            }
        }
        None
    }
}

/// The inputs of a batch of numbers.
pub fn numbers(batch: &Predict) -> Vec<Vec<f64>> {
    batch.inputs.numbers().expect("the model takes numbers").collect()
}
