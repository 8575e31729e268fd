//! Identifiers. Each is a newtype, so that a disk can never be passed where a node is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The id of nothing: what an unclaimed disk carries.
            pub const NIL: Self = Self(Uuid::nil());

            /// A fresh random id (UUID version 4).
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// From the 16 bytes that [`Self::to_bytes`] gave.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes of the UUID, in network order.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// Whether this is [`Self::NIL`].
            pub const fn is_nil(self) -> bool {
                self.0.is_nil()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number that follows.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

uuid_id! {
    /// A cluster: what every disk and peer of it names, so that no stranger's data is ever mixed in.
    ClusterId
}
uuid_id! {
    /// A node: one engine process and its disks.
    NodeId
}
uuid_id! {
    /// A disk: one segment log, and the address of the core that owns it.
    DiskId
}
number_id! {
    /// A Raft group: the meta group ([`GroupId::META`]) or one volume. Never reused.
    GroupId
}
number_id! {
    /// One replica of one group, for ever: a replacement gets a new number. Raft's node id; never 0.
    ReplicaId
}
number_id! {
    /// A Raft term.
    Term
}
number_id! {
    /// A place in a group's Raft log.
    LogIndex
}
number_id! {
    /// An attachment epoch of a volume. 0 is the volume that nobody has attached yet.
    Epoch
}
number_id! {
    /// A snapshot of a volume. Given by the catalogue, never reused.
    SnapshotId
}

impl GroupId {
    /// The meta group, which holds the catalogue.
    pub const META: Self = Self(1);
    /// The first number a volume can have.
    pub const FIRST_VOLUME: Self = Self(2);
}
