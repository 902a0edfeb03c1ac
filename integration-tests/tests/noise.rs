//! Random bytes at every port: the cluster goes on serving, in the same process.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::net::SocketAddr;
use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, Load, RawContainer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Deterministic noise: xorshift64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, limit: u64) -> Vec<u8> {
        (0..self.below(limit)).map(|_| self.next().to_le_bytes()[3]).collect()
    }

    /// A start that leads deeper into a parser than noise alone would.
    fn prefix(&mut self) -> &'static [u8] {
        const PREFIXES: &[&[u8]] = &[
            b"",
            b"POST /m/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 40\r\n\r\n",
            b"POST /m/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",
            b"POST /admin/add_app HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
              content-length: 99999999999999999999\r\n\r\n",
            b"POST /admin/follow HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
              content-length: 30\r\n\r\n{\"frontend\": ",
            b"GET / HTTP/1.1\r\n",
            b"GET /\xff\xfe%00%zz/predict HTTP/1.1\r\nhost: localhost\r\n\r\n",
            // The greeting of ZMTP 3.0 with the mechanism NULL, and how a READY command and a message begin.
            b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
              \x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x02\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
              \x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x01\0\0\x20",
        ];
        PREFIXES[usize::try_from(self.below(PREFIXES.len() as u64)).unwrap()]
    }
}

/// Sends noise, and perhaps reads a little of the answer, or leaves at once.
async fn disturb(address: SocketAddr, noise: &mut Noise) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    let text = [noise.prefix(), &noise.bytes(300)].concat();
    // The other end may have closed the connection already.
    let _ = stream.write_all(&text).await;
    if noise.below(2) == 0 {
        let _ = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 512])).await;
    }
    (noise.below(4) == 0).then_some(stream)
}

#[tokio::test]
async fn random_bytes_leave_the_cluster_serving() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_secs(20)).await;
    let serves = Serves { model: "m", version: "1", input_type: "doubles" };
    let _containers = [Container::rust("sum", &cluster, serves), Container::python("sum", &cluster, serves)];
    cluster.connected("m", 2).await;
    let before = cluster.main.pid();
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), 1);
    let addresses = cluster.main.addresses();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut open = Vec::new();
    for _ in 0..200 {
        for address in [addresses.query, addresses.admin, addresses.rpc] {
            open.extend(disturb(address.unwrap(), &mut noise).await);
        }
    }
    load.answered(50).await;
    load.finish().await.assert_flawless();
    cluster.connected("m", 2).await;
    cluster.add_app("later", "doubles", Duration::from_secs(1), true).await;
    assert_eq!(cluster.main.pid(), before);
    assert!(!cluster.main.log().contains("panicked"), "{}", cluster.main.log());
    drop(open);
}

#[tokio::test]
async fn random_messages_of_containers_leave_the_cluster_serving() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_secs(20)).await;
    let serves = Serves { model: "m", version: "1", input_type: "doubles" };
    let _container = Container::rust("sum", &cluster, serves);
    cluster.served(0, "m", json!({"input": [1]})).await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), 1);
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let mut strangers: Vec<_> = (0..4).map(|_| RawContainer::connect(cluster.rpc_address(0))).collect();
    for _ in 0..500 {
        let stranger = usize::try_from(noise.below(4)).unwrap();
        let mut frames: Vec<_> = (0..=noise.below(5)).map(|_| noise.bytes(60)).collect();
        if noise.below(2) == 0 {
            // As far as the map of a header.
            frames.insert(0, Vec::new());
            frames[1].insert(0, 0x81);
        }
        strangers[stranger].send_frames(frames);
        strangers[stranger].try_receive();
        tokio::task::yield_now().await;
    }
    load.answered(50).await;
    load.finish().await.assert_flawless();
    cluster.connected("m", 1).await;
    assert!(!cluster.main.log().contains("panicked"), "{}", cluster.main.log());
}
