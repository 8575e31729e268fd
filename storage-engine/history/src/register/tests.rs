//! What the history accepts and what it refuses.

use super::*;

fn writer(client: u64, process: u64) -> Writer {
    Writer {
        client,
        process,
        is_device: false,
    }
}

fn device(client: u64, process: u64) -> Writer {
    Writer {
        is_device: true,
        ..writer(client, process)
    }
}

#[test]
fn an_acknowledged_value_must_be_read() {
    let mut history = History::default();
    let write = history.begin_write(1, 1, 0..2, 5);
    history.acknowledge(2, write);
    let read = history.begin_read(3, 0..2);
    history.end_read(4, read, 1, &[5, 6]);
}

#[test]
#[should_panic(expected = "sector 0 read as 0")]
fn a_lost_write_is_noticed() {
    let mut history = History::default();
    let write = history.begin_write(1, 1, 0..1, 5);
    history.acknowledge(2, write);
    let read = history.begin_read(3, 0..1);
    history.end_read(4, read, 1, &[0]);
}

#[test]
#[should_panic(expected = "sector 0 read as 0")]
fn what_was_seen_stays_seen() {
    let mut history = History::default();
    history.begin_write(1, 1, 0..1, 5);
    let read = history.begin_read(2, 0..1);
    history.end_read(3, read, 2, &[5]);
    let read = history.begin_read(4, 0..1);
    history.end_read(5, read, 2, &[0]);
}

#[test]
#[should_panic(expected = "sector 0 read as 5")]
fn a_dead_clients_write_may_not_land_after_the_next_attachment_was_seen_to_rule() {
    let mut history = History::default();
    history.begin_write(1, 1, 0..1, 5);
    history.died(2, 1);
    let write = history.begin_write(3, 2, 7..8, 9);
    history.acknowledge(4, write);
    let read = history.begin_read(5, 0..1);
    history.end_read(6, read, 2, &[0]);
    let read = history.begin_read(7, 0..1);
    history.end_read(8, read, 2, &[5]);
}

#[test]
fn a_dead_clients_write_may_have_landed_before() {
    let mut history = History::default();
    history.begin_write(1, 1, 0..1, 5);
    history.died(2, 1);
    let write = history.begin_write(3, 2, 7..8, 9);
    history.acknowledge(4, write);
    let read = history.begin_read(5, 0..1);
    history.end_read(6, read, 2, &[5]);
}

#[test]
fn a_write_whose_process_lives_may_land_as_long_as_it_likes() {
    let mut history = History::default();
    history.begin_write(1, writer(1, 10), 0..1, 5);
    history.left(2, 1);
    for began in [3, 5] {
        let write = history.begin_write(began, writer(2, 20), 7..8, 9);
        history.acknowledge(began + 1, write);
    }
    let read = history.begin_read(7, 0..1);
    history.end_read(8, read, 2, &[0]);
    let read = history.begin_read(9, 0..1);
    history.end_read(10, read, 2, &[5]);
}

#[test]
#[should_panic(expected = "sector 0 read as 5")]
fn until_the_process_dies() {
    let mut history = History::default();
    history.begin_write(1, writer(1, 10), 0..1, 5);
    history.left(2, 1);
    history.died(3, 10);
    let write = history.begin_write(4, writer(2, 20), 0..1, 9);
    history.acknowledge(5, write);
    let read = history.begin_read(6, 0..1);
    history.end_read(7, read, 2, &[5]);
}

#[test]
fn a_lost_connections_write_is_not_shut_out_by_its_own_client() {
    let mut history = History::default();
    let lost = history.begin_write(1, 1, 0..1, 5);
    history.lost(2, lost, true);
    let write = history.begin_write(3, 1, 0..1, 9);
    history.acknowledge(4, write);
    for value in [9, 5] {
        let read = history.begin_read(5, 0..1);
        history.end_read(6, read, 2, &[value]);
    }
}

#[test]
#[should_panic(expected = "sector 0 read as 5")]
fn a_lost_connections_write_is_shut_out_by_another_client() {
    let mut history = History::default();
    let lost = history.begin_write(1, 1, 0..1, 5);
    history.lost(2, lost, true);
    let write = history.begin_write(3, 2, 0..1, 9);
    history.acknowledge(4, write);
    let read = history.begin_read(5, 0..1);
    history.end_read(6, read, 2, &[5]);
}

#[test]
fn what_never_held_the_attachment_may_take_it_late() {
    let mut history = History::default();
    let lost = history.begin_write(1, 1, 0..1, 5);
    history.lost(2, lost, false);
    let write = history.begin_write(3, 2, 0..1, 9);
    history.acknowledge(4, write);
    let read = history.begin_read(5, 0..1);
    history.end_read(6, read, 2, &[5]);
}

#[test]
fn a_slow_read_of_something_older_decides_nothing() {
    let mut history = History::default();
    history.begin_write(1, 1, 0..1, 5);
    let slow = history.begin_read(2, 0..1);
    history.left(3, 1);
    let write = history.begin_write(4, 2, 0..1, 9);
    history.acknowledge(5, write);
    history.end_read(6, slow, 3, &[5]);
    let read = history.begin_read(7, 0..1);
    history.end_read(8, read, 2, &[9]);
}

#[test]
fn a_read_may_return_what_was_written_while_it_ran() {
    let mut history = History::default();
    let read = history.begin_read(1, 0..3);
    let write = history.begin_write(2, 1, 1..2, 5);
    history.acknowledge(3, write);
    history.end_read(4, read, 2, &[0, 5, 0]);
    assert!(history.may_hold(1, 5) && !history.may_hold(1, 0) && history.may_hold(2, 0));
}

/// A device that has been served, and has a write under way when another process is served.
fn overtaken(history: &mut History) -> OpId {
    let write = history.begin_write(1, device(1, 10), 5..6, 3);
    history.acknowledge(2, write);
    let under_way = history.begin_write(3, device(1, 10), 0..1, 5);
    let write = history.begin_write(4, device(2, 20), 7..8, 9);
    history.acknowledge(5, write);
    under_way
}

#[test]
#[should_panic(expected = "sector 0 read as 5")]
fn a_served_device_cannot_write_once_another_process_was_served() {
    let mut history = History::default();
    overtaken(&mut history);
    let read = history.begin_read(6, 0..1);
    history.end_read(7, read, 2, &[0]);
    let read = history.begin_read(8, 0..1);
    history.end_read(9, read, 2, &[5]);
}

#[test]
#[should_panic(expected = "though it never landed")]
fn what_was_shut_out_and_is_not_there_cannot_be_acknowledged() {
    let mut history = History::default();
    let under_way = overtaken(&mut history);
    let read = history.begin_read(6, 0..1);
    history.end_read(7, read, 2, &[0]);
    history.acknowledge(8, under_way);
}

#[test]
fn it_may_have_landed_before_and_be_told_late() {
    let mut history = History::default();
    let under_way = overtaken(&mut history);
    let read = history.begin_read(6, 0..1);
    history.end_read(7, read, 2, &[5]);
    history.acknowledge(8, under_way);
}

#[test]
fn a_device_that_was_never_served_may_still_be() {
    let mut history = History::default();
    let waiting = history.begin_write(1, device(1, 10), 0..1, 5);
    let write = history.begin_write(2, device(2, 20), 7..8, 9);
    history.acknowledge(3, write);
    let read = history.begin_read(4, 0..1);
    history.end_read(5, read, 2, &[0]);
    history.acknowledge(6, waiting);
    assert!(history.may_hold(0, 5) && !history.may_hold(0, 0));
}

#[test]
fn of_two_processes_writes_at_once_either_may_be_the_later_until_one_is_read() {
    let mut history = History::default();
    let one = history.begin_write(1, 1, 0..1, 5);
    let other = history.begin_write(2, 2, 0..1, 9);
    history.acknowledge(3, one);
    history.acknowledge(4, other);
    assert!(history.may_hold(0, 5) && history.may_hold(0, 9) && !history.may_hold(0, 0));
    let read = history.begin_read(5, 0..1);
    history.end_read(6, read, 3, &[5]);
    assert!(history.may_hold(0, 5) && !history.may_hold(0, 9));
}

#[test]
#[should_panic(expected = "sector 0 read as 5")]
fn what_a_shut_out_write_left_is_gone_where_the_other_wrote() {
    let mut history = History::default();
    let write = history.begin_write(1, device(1, 10), 5..6, 3);
    history.acknowledge(2, write);
    history.begin_write(3, device(1, 10), 0..1, 5);
    let write = history.begin_write(4, device(2, 20), 0..1, 9);
    history.acknowledge(5, write);
    let read = history.begin_read(6, 0..1);
    history.end_read(7, read, 2, &[5]);
}
