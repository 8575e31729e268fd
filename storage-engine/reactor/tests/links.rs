//! Links between cores: frames cross, what breaks is named, and a peer that stops reading harms only itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "test data and a printed figure"
)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use cairn_api::ids::{DiskId, Epoch, GroupId, LogIndex};
use cairn_api::units::Lba;
use cairn_core::event::{Command, Effect, Event};
use cairn_format::peer::{
    GatewayOp, GatewayReply, GatewayRequest, GatewayResult, HELLO_BYTES, HelloCode, HelloReply, PeerMessage, encode,
};
use cairn_reactor::ReactorHandle;
use common::{Bench, Fake, accept_links, until};

fn write_request(request: u64, payload: Bytes) -> PeerMessage {
    let block_crcs = payload.chunks(4096).map(cairn_format::checksum::crc32c).collect();
    let op = GatewayOp::Write {
        epoch: Epoch(1),
        lba: Lba(0),
        block_crcs,
        payload,
    };
    PeerMessage::Request(GatewayRequest {
        group: GroupId(9),
        request,
        revision: LogIndex(0),
        op,
    })
}

/// A machine that tells of its events, and sends what commands ask for: `Propose` to `group` sends `data` as a write.
fn teller(events: mpsc::Sender<Event>, peers: Arc<Mutex<Vec<DiskId>>>) -> impl cairn_reactor::Machine {
    let mut request = 0;
    Fake(move |_, event: Event, effects: &mut Vec<Effect>| {
        if let Event::Command {
            command: Command::Propose { data, .. },
            id,
        } = &event
        {
            request += 1;
            for peer in peers.lock().unwrap().iter() {
                effects.push(Effect::Send {
                    to: *peer,
                    message: write_request(request, data.clone()),
                });
            }
            effects.push(Effect::CommandReply {
                id: *id,
                result: Ok(cairn_core::event::CommandReply::Done),
            });
        }
        let _ = events.send(event);
    })
}

fn next(events: &mpsc::Receiver<Event>, mut wanted: impl FnMut(&Event) -> bool) -> Event {
    loop {
        let event = events
            .recv_timeout(Duration::from_secs(10))
            .expect("the event comes within ten seconds");
        if wanted(&event) {
            return event;
        }
    }
}

fn propose(reactor: &ReactorHandle, data: Bytes) {
    reactor.command(
        Command::Propose {
            group: GroupId(1),
            data,
        },
        Box::new(|_| ()),
    );
}

/// Where log lines of this test binary are kept.
fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    struct Sink;
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            log().lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    LOG.get_or_init(|| {
        tracing_subscriber::fmt().with_ansi(false).with_writer(|| Sink).init();
        Mutex::default()
    })
}

/// A receiver that answers every write, over its own link, and passes on what arrived.
fn answer_writes(event: Event, effects: &mut Vec<Effect>, arrivals: &mpsc::Sender<(DiskId, Bytes)>) {
    let Event::Peer { from, messages } = event else { return };
    for message in messages {
        let PeerMessage::Request(GatewayRequest { group, request, op, .. }) = message else {
            continue;
        };
        let GatewayOp::Write { payload, .. } = op else { continue };
        let result = GatewayResult::Done;
        let message = PeerMessage::Reply(GatewayReply { group, request, result });
        effects.push(Effect::Send { to: from, message });
        arrivals.send((from, payload)).unwrap();
    }
}

#[test]
fn a_frame_crosses_between_two_reactors_and_its_payload_lands_aligned() {
    let bench = Bench::new();
    let peers = Arc::new(Mutex::new(Vec::new()));
    let (events, sender_events) = mpsc::channel();
    let (sender, sender_id) = bench.start("sender", teller(events, Arc::clone(&peers)));

    let (arrivals, received) = mpsc::channel();
    let echo = Fake(move |_, event: Event, effects: &mut Vec<Effect>| answer_writes(event, effects, &arrivals));
    let (receiver, receiver_id) = bench.start("receiver", echo);

    let (to_sender, to_receiver) = (sender.clone(), receiver.clone());
    let sender_address = accept_links(move |socket, from| to_sender.adopt_peer(socket, from).unwrap());
    let receiver_address = accept_links(move |socket, from| to_receiver.adopt_peer(socket, from).unwrap());
    peers.lock().unwrap().push(receiver_id);
    receiver.set_peer(sender_id, sender_address).unwrap();
    sender.set_peer(receiver_id, receiver_address).unwrap();
    next(
        &sender_events,
        |event| matches!(event, Event::PeerUp(peer) if *peer == receiver_id),
    );
    until("the link back stands", || {
        receiver
            .counters()
            .links()
            .iter()
            .any(|(_, link)| link.up.load(Ordering::Relaxed) == 1)
    });

    for length in [4096, 1 << 20, 12_288] {
        let data = Bytes::from((0..length).map(|at: usize| (at / 5) as u8).collect::<Vec<_>>());
        propose(&sender, data.clone());
        let (from, payload) = received.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(from, sender_id);
        assert!(payload == data);
        assert_eq!(payload.as_ptr() as usize % 4096, 0, "the payload lands page-aligned");
        next(&sender_events, |event| {
            matches!(event, Event::Peer { from, messages } if *from == receiver_id
                && matches!(messages[0], PeerMessage::Reply(GatewayReply { result: GatewayResult::Done, .. })))
        });
    }
    for reactor in [&sender, &receiver] {
        reactor.stop();
        reactor.join().unwrap();
        assert_eq!(
            reactor.counters().arena_bytes_used.load(Ordering::Relaxed),
            0,
            "every buffer came back"
        );
        assert_eq!(reactor.counters().heap_bytes_used.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_peer_that_goes_comes_back_when_it_can_be_dialled_again() {
    let bench = Bench::new();
    let (events, sender_events) = mpsc::channel();
    let (sender, _) = bench.start("disk", teller(events, Arc::default()));
    let peer = DiskId::random();
    let (sockets, accepted) = mpsc::channel();
    let address = accept_links(move |socket, _| sockets.send(socket).unwrap());
    sender.set_peer(peer, address).unwrap();
    for _ in 0..3 {
        next(
            &sender_events,
            |event| matches!(event, Event::PeerUp(up) if *up == peer),
        );
        drop(accepted.recv().unwrap());
        next(
            &sender_events,
            |event| matches!(event, Event::PeerDown(down) if *down == peer),
        );
    }
    next(
        &sender_events,
        |event| matches!(event, Event::PeerUp(up) if *up == peer),
    );
    sender.remove_peer(peer).unwrap();
    next(
        &sender_events,
        |event| matches!(event, Event::PeerDown(down) if *down == peer),
    );
    sender.stop();
    sender.join().unwrap();
}

#[test]
fn a_refused_greeting_is_logged_with_its_reason() {
    log();
    let bench = Bench::new();
    let (events, _sender_events) = mpsc::channel();
    let (sender, _) = bench.start("disk", teller(events, Arc::default()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    sender
        .set_peer(DiskId::random(), listener.local_addr().unwrap())
        .unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    socket.read_exact(&mut [0; HELLO_BYTES]).unwrap();
    socket
        .write_all(&HelloReply::new(HelloCode::WrongCluster).encode())
        .unwrap();
    until("the refusal is logged", || {
        String::from_utf8_lossy(&log().lock().unwrap()).contains("it belongs to another cluster")
    });
    sender.stop();
    sender.join().unwrap();
}

/// A pair of connected TCP sockets.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

#[test]
fn garbage_from_a_peer_closes_its_link_only_and_names_peer_and_field() {
    log();
    let bench = Bench::new();
    let (events, received) = mpsc::channel();
    let (reactor, _) = bench.start("disk", teller(events, Arc::default()));
    let good = DiskId::random();
    let (mut good_near, good_far) = pair();
    reactor.adopt_peer(good_far.into(), good).unwrap();

    let frame = encode(&[write_request(1, Bytes::from(vec![5; 8192]))]);
    let mut valid = frame.head.to_vec();
    frame.payload.iter().for_each(|part| valid.extend_from_slice(part));
    let flipped = |at: usize| {
        let mut bytes = valid.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        (vec![b'G'; 4096], "magic"),
        (flipped(70), "checksum"),
        (flipped(20), "checksum"),
    ];
    for (garbage, word) in cases {
        let peer = DiskId::random();
        let (mut near, far) = pair();
        reactor.adopt_peer(far.into(), peer).unwrap();
        near.write_all(&garbage).unwrap();
        near.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // A reset tells as much as an end: unread garbage makes it one.
        assert_eq!(near.read(&mut [0; 1]).unwrap_or(0), 0, "the link is closed");
        let lines = || String::from_utf8_lossy(&log().lock().unwrap()).into_owned();
        until("the log names the peer", || lines().contains(&peer.to_string()));
        let lines = lines();
        let line = lines.lines().find(|line| line.contains(&peer.to_string())).unwrap();
        assert!(
            line.contains("no frame of this protocol") && line.contains(word),
            "{line}"
        );
    }
    good_near.write_all(&valid).unwrap();
    next(
        &received,
        |event| matches!(event, Event::Peer { from, .. } if *from == good),
    );
    reactor.stop();
    reactor.join().unwrap();
}

#[test]
fn a_newer_connection_of_a_peer_replaces_the_older() {
    let bench = Bench::new();
    let (events, received) = mpsc::channel();
    let (reactor, _) = bench.start("disk", teller(events, Arc::default()));
    let peer = DiskId::random();
    let ((mut old_near, old_far), (mut new_near, new_far)) = (pair(), pair());
    reactor.adopt_peer(old_far.into(), peer).unwrap();
    reactor.adopt_peer(new_far.into(), peer).unwrap();
    old_near.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(old_near.read(&mut [0; 1]).unwrap_or(0), 0);
    let frame = encode(&[write_request(1, Bytes::from(vec![5; 4096]))]);
    // In small pieces, as a slow network delivers them.
    let whole: Vec<u8> = frame
        .head
        .iter()
        .chain(frame.payload.iter().flatten())
        .copied()
        .collect();
    for piece in [&whole[..30], &whole[30..100], &whole[100..3000], &whole[3000..]] {
        new_near.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    next(
        &received,
        |event| matches!(event, Event::Peer { from, .. } if *from == peer),
    );
    reactor.stop();
    reactor.join().unwrap();
}

#[test]
fn a_peer_that_stops_reading_fills_its_own_bound_only() {
    let bench = Bench::new();
    let peers = Arc::new(Mutex::new(Vec::new()));
    let (events, sent) = mpsc::channel();
    let (reactor, _) = bench.start("disk", teller(events, Arc::clone(&peers)));
    let (sockets, stalled) = mpsc::channel();
    let stalled_address = accept_links(move |socket, _| sockets.send(socket).unwrap());
    let healthy_address: SocketAddr = accept_links(|socket, _| {
        std::thread::spawn(move || std::io::copy(&mut TcpStream::from(socket), &mut std::io::sink()));
    });
    let (stalled_peer, healthy_peer) = (DiskId::random(), DiskId::random());
    for (peer, address) in [(stalled_peer, stalled_address), (healthy_peer, healthy_address)] {
        reactor.set_peer(peer, address).unwrap();
        next(&sent, |event| matches!(event, Event::PeerUp(up) if *up == peer));
        peers.lock().unwrap().push(peer);
    }
    let _held = stalled.recv().unwrap();
    let data = Bytes::from(vec![3; 1 << 20]);
    let link = |peer: DiskId| {
        let links = reactor.counters().links();
        links.into_iter().find(|(disk, _)| *disk == peer).unwrap().1
    };
    let mut queued_most = 0;
    for _ in 0..200 {
        propose(&reactor, data.clone());
        next(
            &sent,
            |event| matches!(event, Event::PeerDrained { to, .. } if *to == healthy_peer),
        );
        queued_most = queued_most.max(link(stalled_peer).bytes_queued.load(Ordering::Relaxed));
    }
    assert!(
        (32 << 20..=66 << 20).contains(&queued_most),
        "{queued_most} bytes were queued for the stalled peer"
    );
    assert!(
        link(stalled_peer).breaks.load(Ordering::Relaxed) >= 1,
        "the link was given up"
    );
    assert_eq!(link(healthy_peer).breaks.load(Ordering::Relaxed), 0);
    assert!(link(healthy_peer).bytes_sent.load(Ordering::Relaxed) >= 200 << 20);
    reactor.stop();
    reactor.join().unwrap();
}
