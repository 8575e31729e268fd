//! Random values of every structure of the format, within the bounds that their fields state.

use bytes::Bytes;
use cairn_api::block::{Allocation, BlockError, StatusExtent};
use cairn_api::ids::{ClusterId, DiskId, Epoch, GroupId, LogIndex, NodeId, ReplicaId, SnapshotId, Term};
use cairn_api::units::{BLOCK_SIZE, Lba};
use cairn_format::anchor::{Anchor, CheckpointPlace, LogBeginning, TablePlace};
use cairn_format::base::Base;
use cairn_format::checksum::block_crcs;
use cairn_format::chunk::{ChunkInfo, ChunkKind};
use cairn_format::entry::EntryHeader;
use cairn_format::frame::{FrameInfo, FrameRecord, MovedRun};
use cairn_format::member::{Member, MemberChange};
use cairn_format::moved::{MOVED_BLOCKS_MAX, MovedBlocks};
use cairn_format::page::{LEAF_SLOTS, LeafKey, LeafPage, PageRun, PageSlots, U48_END};
use cairn_format::peer::{
    AttachMode, BlockPiece, CatchUpOffer, CatchUpOutcome, CatchUpReply, CatchUpRequest, FoundBlock, GatewayOp,
    GatewayReply, GatewayRequest, GatewayResult, Hello, HelloCode, PeerEntry, PeerMessage, RaftKind, RaftMessage,
    RepairRefusal, RepairReply, RepairRequest, RepairSource, WantedBlock,
};
use cairn_format::portion::{Portion, Row, RowContent};
use cairn_format::segment::{HeadKind, SegmentHeader};
use cairn_format::superblock::{Geometry, SEGMENT_SIZE_MIN, SEGMENTS_START_DEFAULT, Superblock};
use cairn_format::table::{KeptEntry, LeafPlace, PagePlace, Table, TableGroup, TableSnapshot};
use cairn_format::volume_state::{StateSnapshot, VolumeState};
use proptest::collection::vec;
use proptest::prelude::*;

pub(crate) fn disk() -> impl Strategy<Value = DiskId> {
    any::<[u8; 16]>()
        .prop_filter("not nil", |bytes| *bytes != [0; 16])
        .prop_map(DiskId::from_bytes)
}

pub(crate) fn node() -> impl Strategy<Value = NodeId> {
    any::<[u8; 16]>().prop_map(NodeId::from_bytes)
}

pub(crate) fn cluster() -> impl Strategy<Value = ClusterId> {
    any::<[u8; 16]>().prop_map(ClusterId::from_bytes)
}

prop_compose! {
    pub(crate) fn superblock()(
        (cluster, node, disk) in (cluster(), node(), disk()),
        (blocks, segment_count) in (512_u64..=4096, 16_u32..=5000),
        extra in 0_u64..1 << 30,
        (generation, created_unix_s) in any::<(u64, u64)>(),
    ) -> Superblock {
        let segment_size = (blocks * u64::from(BLOCK_SIZE)).max(SEGMENT_SIZE_MIN);
        let geometry = Geometry { segments_start: SEGMENTS_START_DEFAULT, segment_size, segment_count };
        let device_size = geometry.end() + 2 * u64::from(BLOCK_SIZE) + extra;
        Superblock { cluster, node, disk, device_size, geometry, generation, created_unix_s }
    }
}

prop_compose! {
    pub(crate) fn segment_header()(
        (disk, segment) in (disk(), any::<u32>()),
        head in prop_oneof![Just(HeadKind::Hot), Just(HeadKind::Cold), Just(HeadKind::Index)],
        (epoch, incarnation, first_sequence) in (1_u64.., 1_u64.., 1_u64..),
        (chain_before, behind) in any::<(u64, u64)>(),
    ) -> SegmentHeader {
        let durable_upto = behind % first_sequence;
        SegmentHeader { disk, segment, head, epoch, incarnation, first_sequence, chain_before, durable_upto }
    }
}

fn block_crcs_strategy() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![vec(any::<u32>(), 1..=4), vec(any::<u32>(), 1..=256)]
}

fn snapshot() -> impl Strategy<Value = SnapshotId> {
    (1..=u64::MAX).prop_map(SnapshotId)
}

fn fill() -> impl Strategy<Value = EntryHeader> {
    let crcs = prop_oneof![1 => Just(Vec::new()), 3 => block_crcs_strategy()];
    (0_u64..1 << 49, 1_u64..1 << 49, any::<bool>(), crcs).prop_map(|(lba, skip, skips, block_crcs)| EntryHeader::Fill {
        lba: Lba(lba),
        skip: if skips || block_crcs.is_empty() { skip } else { 0 },
        block_crcs,
    })
}

fn base() -> impl Strategy<Value = Option<Base>> {
    let some = (any::<u64>(), snapshot(), 1_u64..=1 << 51);
    proptest::option::of(some.prop_map(|(group, snapshot, blocks)| Base {
        group: GroupId(group),
        snapshot,
        blocks,
    }))
}

pub(crate) fn entry_header() -> impl Strategy<Value = EntryHeader> {
    let lba = 0_u64..1 << 50;
    prop_oneof![
        (any::<u64>(), lba.clone(), block_crcs_strategy()).prop_map(|(epoch, lba, block_crcs)| EntryHeader::Write {
            epoch: Epoch(epoch),
            lba: Lba(lba),
            block_crcs
        }),
        (any::<u64>(), lba, 1_u64..1 << 50, any::<bool>()).prop_map(|(epoch, lba, blocks, allocate)| {
            EntryHeader::Zero {
                epoch: Epoch(epoch),
                lba: Lba(lba),
                blocks,
                allocate,
            }
        }),
        (any::<u64>(), node()).prop_map(|(epoch, holder)| EntryHeader::Attach {
            epoch: Epoch(epoch),
            holder
        }),
        (block_crcs_strategy(), 0..BLOCK_SIZE).prop_map(|(block_crcs, cut)| {
            let length = u32::try_from(block_crcs.len()).unwrap() * BLOCK_SIZE - cut;
            EntryHeader::Command { length, block_crcs }
        }),
        member_change().prop_map(|change| EntryHeader::Members { change }),
        (1_u64..=1 << 51).prop_map(|size_blocks| EntryHeader::Resize { size_blocks }),
        snapshot().prop_map(|snapshot| EntryHeader::SnapshotCreate { snapshot }),
        snapshot().prop_map(|snapshot| EntryHeader::SnapshotDelete { snapshot }),
        fill(),
    ]
}

fn member() -> impl Strategy<Value = Member> {
    (1_u64.., node(), disk()).prop_map(|(replica, node, disk)| Member {
        replica: ReplicaId(replica),
        node,
        disk,
    })
}

fn member_change() -> impl Strategy<Value = MemberChange> {
    prop_oneof![
        member().prop_map(MemberChange::AddLearner),
        (1_u64..).prop_map(|replica| MemberChange::Promote(ReplicaId(replica))),
        (1_u64..).prop_map(|replica| MemberChange::Remove(ReplicaId(replica))),
    ]
}

pub(crate) fn frame_record(payload_blocks: u32) -> impl Strategy<Value = FrameRecord> {
    prop_oneof![
        (
            any::<(u64, u64, u64)>(),
            any::<u32>(),
            proptest::option::of(entry_header())
        )
            .prop_map(move |((group, term, index), place, header)| {
                let header = header.filter(|header| header.payload_blocks() <= payload_blocks);
                let blocks = header.as_ref().map_or(0, EntryHeader::payload_blocks);
                FrameRecord::Entry {
                    group: GroupId(group),
                    term: Term(term),
                    index: LogIndex(index),
                    payload_offset: place % (payload_blocks - blocks + 1),
                    header: header.map_or_else(Bytes::new, |header| header.encode()),
                }
            }),
        any::<(u64, u64, u64, u64)>().prop_map(|(group, term, vote, commit)| FrameRecord::HardState {
            group: GroupId(group),
            term: Term(term),
            vote: ReplicaId(vote),
            commit: LogIndex(commit),
        }),
        (any::<(u64, u64, u64, u64, u64)>(), base(), vec(member(), 1..=5)).prop_map(
            |((group, size_blocks, index, term, replica), base, members)| FrameRecord::GroupCreated {
                group: GroupId(group),
                size_blocks,
                base,
                members,
                replica: ReplicaId(replica),
                index: LogIndex(index),
                term: Term(term),
            }
        ),
        any::<u64>().prop_map(|group| FrameRecord::GroupDropped { group: GroupId(group) }),
        any::<(u64, u64, u64, u64)>().prop_map(|(group, mark, term, have)| FrameRecord::StageBegin {
            group: GroupId(group),
            mark: LogIndex(mark),
            term: Term(term),
            have: LogIndex(have),
        }),
        (any::<u64>(), any::<u32>(), portion(payload_blocks.min(4))).prop_map(move |(group, place, (portion, _))| {
            FrameRecord::StageBlocks {
                group: GroupId(group),
                payload_offset: place % (payload_blocks - portion.data_blocks() + 1),
                portion,
            }
        }),
        (any::<u64>(), volume_state()).prop_map(|(group, state)| FrameRecord::StageDone {
            group: GroupId(group),
            state
        }),
        (any::<u64>(), vec(moved_run(), 1..=8)).prop_map(|(group, runs)| FrameRecord::Moved {
            group: GroupId(group),
            runs
        }),
    ]
}

pub(crate) fn moved_run() -> impl Strategy<Value = MovedRun> {
    (any::<u64>(), 0..U48_END, 0..U48_END, 1_u32..).prop_map(|(lba, from, to, blocks)| MovedRun {
        lba,
        from,
        to,
        blocks,
    })
}

pub(crate) fn anchor() -> impl Strategy<Value = Anchor> {
    let begins = (any::<u32>(), 1_u64.., 1_u64.., 1_u64.., any::<u64>()).prop_map(
        |(segment, epoch, incarnation, sequence, chain_before)| LogBeginning {
            segment,
            epoch,
            incarnation,
            sequence,
            chain_before,
        },
    );
    let table = (1_u64.., 1_u32.., 1_u32..).prop_map(|(block, blocks, chunks)| TablePlace { block, blocks, chunks });
    let checkpoint = (begins, table).prop_map(|(begins, table)| CheckpointPlace { begins, table });
    (disk(), proptest::option::weighted(0.9, (1_u64.., checkpoint))).prop_map(|(disk, checkpoint)| match checkpoint {
        None => Anchor::formatted(disk),
        Some((generation, checkpoint)) => Anchor {
            disk,
            generation,
            checkpoint: Some(checkpoint),
        },
    })
}

pub(crate) fn chunk() -> impl Strategy<Value = (ChunkInfo, Vec<u8>)> {
    let kind = prop_oneof![Just(ChunkKind::Pages), Just(ChunkKind::Table), Just(ChunkKind::Moved)];
    let info = (disk(), kind, any::<[u64; 4]>(), any::<u32>()).prop_map(
        |(disk, kind, [block, epoch, generation, previous_block], previous_blocks)| ChunkInfo {
            disk,
            block,
            epoch,
            kind,
            generation,
            previous_block,
            previous_blocks,
        },
    );
    // Around the end of the first block as well as beyond it.
    let body = prop_oneof![0..200_usize, 4000..4030_usize, 0..20_000_usize];
    (info, body, any::<u8>()).prop_map(|(info, length, seed)| {
        let body = (0..length).map(|place| (place % 251) as u8 ^ seed).collect();
        (info, body)
    })
}

pub(crate) fn leaf_page() -> impl Strategy<Value = LeafPage> {
    let run = (0_u16..40, 1_u16..=64, 0..U48_END, 0..U48_END, 0_u8..3);
    let runs = prop_oneof![
        vec(run.clone(), 0..20),
        vec(
            run.prop_map(|(_, _, block, birth, kind)| (0, 1, block, birth, kind)),
            0..=512
        ),
        // One run of the whole leaf.
        (0..U48_END, 0..U48_END, 0_u8..3).prop_map(|(block, birth, kind)| vec![(0, LEAF_SLOTS, block, birth, kind)]),
    ];
    (any::<[u64; 3]>(), runs).prop_map(|([group, owner, leaf], drawn)| {
        let mut end = 0;
        let mut runs = Vec::new();
        for (gap, count, block, birth, kind) in drawn {
            let first = end + gap;
            let count = count.min(LEAF_SLOTS.saturating_sub(first));
            if count == 0 {
                break;
            }
            end = first + count;
            let slots = match kind {
                0 => PageSlots::Data {
                    block,
                    crcs: (0..u32::from(count)).map(|slot| slot ^ block as u32).collect(),
                },
                1 => PageSlots::Zero(count),
                _ => PageSlots::Trimmed(count),
            };
            runs.push(PageRun { first, birth, slots });
        }
        let group = GroupId(group);
        LeafPage {
            key: LeafKey { group, owner, leaf },
            runs,
        }
    })
}

pub(crate) fn moved_blocks() -> impl Strategy<Value = Vec<MovedBlocks>> {
    let run = prop_oneof![
        (any::<u64>(), any::<u64>(), 1_u32..=20),
        (any::<u64>(), any::<u64>(), Just(1)),
        (any::<u64>(), any::<u64>(), 1_u32..=256)
    ];
    vec(run, 0..=MOVED_BLOCKS_MAX).prop_map(|drawn| {
        let mut left = MOVED_BLOCKS_MAX as u32;
        let mut runs = Vec::new();
        for (group, lba, blocks) in drawn {
            let blocks = blocks.min(left);
            if blocks == 0 {
                break;
            }
            left -= blocks;
            runs.push(MovedBlocks {
                group: GroupId(group),
                lba,
                blocks,
            });
        }
        runs
    })
}

fn table_snapshot() -> impl Strategy<Value = TableSnapshot> {
    any::<(u64, u64, u64, bool)>().prop_map(|(at, id, size_blocks, is_deleted)| TableSnapshot {
        at,
        id: SnapshotId(id),
        size_blocks,
        is_deleted,
    })
}

fn kept_entry() -> impl Strategy<Value = KeptEntry> {
    (any::<[u64; 3]>(), proptest::option::of(entry_header())).prop_map(|([index, term, payload_block], header)| {
        KeptEntry {
            index: LogIndex(index),
            term: Term(term),
            payload_block,
            header: header.map_or_else(Bytes::new, |header| header.encode()),
        }
    })
}

fn table_group() -> impl Strategy<Value = TableGroup> {
    let numbers = (any::<[u64; 17]>(), node(), base(), base());
    let members = (vec(member(), 0..=5), vec(member(), 0..=16), vec(member(), 0..=2));
    let lists = (vec(table_snapshot(), 0..6), vec(kept_entry(), 0..4));
    (numbers, members, lists).prop_map(
        |((n, holder, created_base, base), (created_members, voters, learners), (snapshots, kept))| TableGroup {
            group: GroupId(n[0]),
            created_blocks: n[1],
            created_members,
            replica: ReplicaId(n[2]),
            voters,
            learners,
            revision: LogIndex(n[3]),
            replica_last: ReplicaId(n[4]),
            epoch: Epoch(n[5]),
            holder,
            applied: (LogIndex(n[6]), Term(n[7])),
            hard_state: (Term(n[8]), ReplicaId(n[9]), LogIndex(n[10])),
            begins_behind: (LogIndex(n[11]), Term(n[12])),
            size_blocks: n[13],
            base,
            filled_blocks: n[14],
            created_base,
            snapshots,
            snapshot_last: SnapshotId(n[15]),
            created_sequence: n[16],
            kept,
        },
    )
}

pub(crate) fn table() -> impl Strategy<Value = Table> {
    let leaf = (any::<(u64, u64, u16, u32)>(), 0..U48_END, 0..U48_END, 0_u16..4096).prop_map(
        |((group, leaf, bytes, crc), owner, block, at)| LeafPlace {
            key: LeafKey {
                group: GroupId(group),
                owner,
                leaf,
            },
            page: PagePlace { block, at, bytes, crc },
        },
    );
    let dropped = any::<(u64, u64)>().prop_map(|(group, replica)| (GroupId(group), ReplicaId(replica)));
    (
        vec(table_group(), 0..4),
        vec(dropped, 0..4),
        vec(leaf, 0..20),
        vec(any::<(u32, u32)>(), 0..6),
        any::<u64>(),
    )
        .prop_map(|(groups, dropped, leaves, free, next_sequence)| Table {
            groups,
            dropped,
            leaves,
            free,
            next_sequence,
        })
}

/// A portion with so many blocks of data at most, and those.
fn portion(blocks_max: u32) -> impl Strategy<Value = (Portion, Bytes)> {
    let row = (0_u64..1 << 40, 1_u32..=512, any::<u64>(), 0_u8..4, any::<u8>());
    (any::<u64>(), vec(row, 1..8)).prop_map(move |(owner, rows)| {
        let (mut lba, mut left, mut data) = (0, blocks_max, Vec::new());
        let row = |(gap, slots, birth, kind, seed): (u64, u32, u64, u8, u8)| {
            let start = lba + gap;
            let (slots, content) = match kind {
                0 if left > 0 => {
                    let slots = slots.min(left);
                    left -= slots;
                    let payload = payload(slots, seed);
                    data.extend_from_slice(&payload);
                    (slots, RowContent::Data(block_crcs(&payload)))
                }
                0 | 1 => (slots, RowContent::Kept),
                2 => (slots, RowContent::Zero),
                _ => (slots, RowContent::Trimmed),
            };
            lba = start + u64::from(slots);
            Row {
                lba: Lba(start),
                slots,
                birth: LogIndex(birth),
                content,
            }
        };
        let rows = rows.into_iter().map(row).collect();
        let owner = LogIndex(owner);
        (Portion { owner, rows }, data.into())
    })
}

fn volume_state() -> impl Strategy<Value = VolumeState> {
    let numbers = (any::<[u64; 6]>(), 1_u64..=1 << 51, node(), base());
    let snapshots = proptest::collection::btree_map(0_u64..=1 << 48, any::<(u64, u64)>(), 0..20);
    let snapshot = |(at, (id, size_blocks))| StateSnapshot {
        id: SnapshotId(id),
        at: LogIndex(at),
        size_blocks,
    };
    (numbers, vec(member(), 1..=16), vec(member(), 0..=16), snapshots).prop_map(
        move |(
            ([filled_blocks, spent, term, epoch, revision, last], size_blocks, holder, base),
            voters,
            learners,
            snapshots,
        )| {
            VolumeState {
                index: LogIndex(1 << 48),
                base,
                filled_blocks,
                snapshot_last: SnapshotId(spent),
                snapshots: snapshots.into_iter().map(snapshot).collect(),
                term: Term(term),
                epoch: Epoch(epoch),
                holder,
                size_blocks,
                revision: LogIndex(revision),
                replica_last: ReplicaId(last),
                voters,
                learners,
            }
        },
    )
}

fn catch_up() -> impl Strategy<Value = PeerMessage> {
    let portions = (proptest::option::of(1_u64..1 << 50), vec(portion(3), 0..4));
    prop_oneof![
        (any::<[u64; 5]>(), volume_state()).prop_map(|([group, from, to, term, blocks], state)| {
            PeerMessage::CatchUpOffer(CatchUpOffer {
                group: GroupId(group),
                from: ReplicaId(from),
                to: ReplicaId(to),
                term: Term(term),
                blocks,
                state,
            })
        }),
        (any::<[u64; 5]>(), 0_u64..1 << 51).prop_map(|([group, mark, term, have, filled_blocks], at)| {
            PeerMessage::CatchUpRequest(CatchUpRequest {
                group: GroupId(group),
                mark: LogIndex(mark),
                mark_term: Term(term),
                have: LogIndex(have),
                filled_blocks,
                at: Lba(at),
            })
        }),
        (any::<[u64; 3]>(), 0_u64..1 << 50, proptest::option::of(portions)).prop_map(
            |([group, mark, have], at, portions)| PeerMessage::CatchUpReply(CatchUpReply {
                group: GroupId(group),
                mark: LogIndex(mark),
                have: LogIndex(have),
                at: Lba(at),
                outcome: portions.map_or(CatchUpOutcome::Gone, |(further, portions)| CatchUpOutcome::Portions {
                    next: further.map(|further| Lba(at + further)),
                    portions,
                }),
            })
        ),
    ]
}

pub(crate) fn frame() -> impl Strategy<Value = (FrameInfo, Vec<FrameRecord>)> {
    let info = (
        (disk(), any::<u64>()),
        1_u64..,
        1_u64..,
        1_u64..,
        any::<u64>(),
        1_u64..=64,
        0_u32..=1024,
    )
        .prop_map(
            |((disk, block), segment_epoch, incarnation, sequence, previous_chain, ahead, payload_blocks)| FrameInfo {
                disk,
                block,
                segment_epoch,
                incarnation,
                sequence,
                previous_chain,
                durable_upto: sequence.saturating_sub(ahead),
                payload_blocks,
            },
        );
    info.prop_flat_map(|info| (Just(info), vec(frame_record(info.payload_blocks), 0..40)))
}

/// So many blocks, each different from the next.
pub(crate) fn payload(blocks: u32, seed: u8) -> Bytes {
    (0..blocks * BLOCK_SIZE)
        .map(|place| (place / BLOCK_SIZE * 31 + place % 251) as u8 ^ seed)
        .collect()
}

fn peer_entry() -> impl Strategy<Value = PeerEntry> {
    (any::<(u64, u64, u8)>(), 0_u32..4, any::<bool>()).prop_map(|((term, index, seed), blocks, empty)| {
        let payload = payload(blocks, seed);
        let header = match (blocks, empty) {
            (0, true) => Bytes::new(),
            (0, false) => EntryHeader::Zero {
                epoch: Epoch(3),
                lba: Lba(4),
                blocks: 5,
                allocate: true,
            }
            .encode(),
            _ => EntryHeader::Write {
                epoch: Epoch(term),
                lba: Lba(9),
                block_crcs: block_crcs(&payload),
            }
            .encode(),
        };
        PeerEntry {
            term: Term(term),
            index: LogIndex(index),
            header,
            payload,
        }
    })
}

fn raft_kind() -> impl Strategy<Value = RaftKind> {
    use RaftKind::*;
    proptest::sample::select(vec![
        Append,
        AppendResponse,
        RequestVote,
        RequestVoteResponse,
        RequestPreVote,
        RequestPreVoteResponse,
        Heartbeat,
        HeartbeatResponse,
        TimeoutNow,
        TransferLeader,
        ReadIndex,
        ReadIndexResponse,
        Unreachable,
    ])
}

fn raft_message() -> impl Strategy<Value = PeerMessage> {
    let fields = any::<([u64; 12], bool)>();
    (raft_kind(), fields, vec(any::<u8>(), 0..=64), vec(peer_entry(), 0..4)).prop_map(
        |(kind, (numbers, reject), context, entries)| {
            let [
                group,
                from,
                to,
                term,
                log_term,
                index,
                commit,
                commit_term,
                hint,
                stamp_ns,
                free_blocks,
                room_blocks,
            ] = numbers;
            PeerMessage::Raft(RaftMessage {
                group: GroupId(group),
                kind,
                from: ReplicaId(from),
                to: ReplicaId(to),
                term: Term(term),
                log_term: Term(log_term),
                index: LogIndex(index),
                commit: LogIndex(commit),
                commit_term: Term(commit_term),
                reject,
                reject_hint: LogIndex(hint),
                context: context.into(),
                stamp_ns,
                free_blocks,
                room_blocks,
                entries,
            })
        },
    )
}

fn repair_request() -> impl Strategy<Value = PeerMessage> {
    let source = proptest::option::of(any::<(u64, u64)>());
    let wanted = proptest::collection::btree_map(0_u64..1 << 51, any::<u32>(), 1..=256);
    (any::<(u64, u64)>(), source, wanted).prop_map(|((group, request), entry, wanted)| {
        let source = entry.map_or(RepairSource::Volume, |(index, term)| RepairSource::Entry {
            index: LogIndex(index),
            term: Term(term),
        });
        let places = (0..).zip(wanted);
        let blocks = places.map(|(place, (lba, crc))| WantedBlock {
            at: if entry.is_some() { place } else { lba },
            crc,
        });
        PeerMessage::RepairRequest(RepairRequest {
            group: GroupId(group),
            request,
            source,
            blocks: blocks.collect(),
        })
    })
}

fn repair_reply() -> impl Strategy<Value = PeerMessage> {
    let missing = proptest::option::of(proptest::sample::select(vec![
        RepairRefusal::Absent,
        RepairRefusal::Damaged,
        RepairRefusal::Busy,
    ]));
    let found = proptest::collection::btree_map(0_u64..1 << 51, any::<u8>(), 0..5);
    (any::<(u64, u64)>(), missing, found).prop_map(|((group, request), missing, found)| {
        let blocks = found.into_iter().map(|(at, seed)| FoundBlock {
            at,
            data: payload(1, seed),
        });
        PeerMessage::RepairReply(RepairReply {
            group: GroupId(group),
            request,
            blocks: blocks.collect(),
            missing,
        })
    })
}

fn gateway_op() -> impl Strategy<Value = GatewayOp> {
    let lba = (0_u64..1 << 50).prop_map(Lba);
    let blocks = 1_u64..1 << 50;
    let mode = prop_oneof![
        Just(AttachMode::Take),
        Just(AttachMode::Resume),
        Just(AttachMode::Force)
    ];
    prop_oneof![
        (any::<u64>(), lba.clone(), 1_u32..4, any::<u8>()).prop_map(|(epoch, lba, blocks, seed)| {
            let payload = payload(blocks, seed);
            GatewayOp::Write {
                epoch: Epoch(epoch),
                lba,
                block_crcs: block_crcs(&payload),
                payload,
            }
        }),
        (any::<u64>(), lba.clone(), blocks.clone(), any::<bool>()).prop_map(|(epoch, lba, blocks, allocate)| {
            GatewayOp::Zero {
                epoch: Epoch(epoch),
                lba,
                blocks,
                allocate,
            }
        }),
        (lba.clone(), 1_u32..=256, proptest::option::of(snapshot()))
            .prop_map(|(lba, blocks, snapshot)| { GatewayOp::Read { lba, blocks, snapshot } }),
        (lba, blocks, any::<u32>(), proptest::option::of(snapshot())).prop_map(
            |(lba, blocks, extents_max, snapshot)| GatewayOp::Status {
                lba,
                blocks,
                extents_max,
                snapshot,
            }
        ),
        (node(), mode, node()).prop_map(|(holder, mode, requester)| GatewayOp::Attach {
            holder,
            mode,
            requester
        }),
        any::<u64>().prop_map(|epoch| GatewayOp::KeepAlive { epoch: Epoch(epoch) }),
        any::<u64>().prop_map(|epoch| GatewayOp::Detach { epoch: Epoch(epoch) }),
        any::<u64>().prop_map(|to| GatewayOp::TransferLeader { to: ReplicaId(to) }),
    ]
}

fn block_error() -> impl Strategy<Value = BlockError> {
    prop_oneof![
        any::<(u64, u64, u64)>().prop_map(|(offset, length, size_bytes)| BlockError::OutOfRange {
            offset,
            length,
            size_bytes
        }),
        Just(BlockError::Invalid("the volume's leader found the request malformed")),
        Just(BlockError::NoSpace),
        any::<u64>().prop_map(|current| BlockError::Fenced { current }),
        "[a-zß-ü]{0,100}".prop_map(|holder| BlockError::Busy { holder }),
        Just(BlockError::ReadOnly),
        "[a-zß-ü]{0,100}".prop_map(BlockError::Io),
        Just(BlockError::ShuttingDown),
    ]
}

fn gateway_result() -> impl Strategy<Value = GatewayResult> {
    let piece = prop_oneof![
        (1_u32..4, any::<u8>()).prop_map(|(blocks, seed)| BlockPiece::Data(payload(blocks, seed))),
        (1_u32..32).prop_map(BlockPiece::Zeros),
    ];
    let allocation = prop_oneof![Just(Allocation::Data), Just(Allocation::Zero), Just(Allocation::Hole)];
    let extent = (any::<u64>(), allocation).prop_map(|(length, allocation)| StatusExtent { length, allocation });
    prop_oneof![
        Just(GatewayResult::Done),
        vec(piece, 0..8).prop_map(GatewayResult::Read),
        vec(extent, 0..40).prop_map(GatewayResult::Status),
        any::<u64>().prop_map(|epoch| GatewayResult::Attached { epoch: Epoch(epoch) }),
        proptest::option::of(1_u64..).prop_map(|leader| GatewayResult::NotLeader {
            leader: leader.map(ReplicaId)
        }),
        Just(GatewayResult::Retry),
        block_error().prop_map(GatewayResult::Failed),
        (any::<u64>(), vec(member(), 1..=5)).prop_map(|(revision, voters)| GatewayResult::Members {
            revision: LogIndex(revision),
            voters
        }),
    ]
}

pub(crate) fn peer_message() -> impl Strategy<Value = PeerMessage> {
    prop_oneof![
        raft_message(),
        repair_request(),
        repair_reply(),
        catch_up(),
        (any::<(u64, u64, u64)>(), gateway_op()).prop_map(|((group, request, revision), op)| {
            PeerMessage::Request(GatewayRequest {
                group: GroupId(group),
                request,
                revision: LogIndex(revision),
                op,
            })
        }),
        (any::<(u64, u64)>(), gateway_result()).prop_map(|((group, request), result)| {
            PeerMessage::Reply(GatewayReply {
                group: GroupId(group),
                request,
                result,
            })
        }),
    ]
}

pub(crate) fn hello() -> impl Strategy<Value = Hello> {
    (any::<u16>(), cluster(), node(), disk(), disk()).prop_map(
        |(wire_version, cluster, from_node, from_disk, to_disk)| Hello {
            wire_version,
            cluster,
            from_node,
            from_disk,
            to_disk,
        },
    )
}

pub(crate) fn hello_code() -> impl Strategy<Value = HelloCode> {
    use HelloCode::*;
    proptest::sample::select(vec![
        Accepted,
        WrongVersion,
        WrongCluster,
        UnknownDisk,
        DiskNotReady,
        SameDisk,
        TooManyLinks,
        ShuttingDown,
    ])
}
