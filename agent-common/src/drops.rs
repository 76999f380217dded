//! Why the kernel side gave something up, and how much it moved: indexes into its counters.

/// Value of the `COUNTERS` map: the counters of one CPU, in cache lines of their own. A [`DropReason`] is its own
/// index, a [`Tally`] comes [`TALLIES_AT`] later. User space adds up what all CPUs have counted.
pub type Counters = [u64; COUNTERS];
pub const COUNTERS: usize = 16;
pub const TALLIES_AT: usize = 12;
const _: () = assert!(DropReason::ALL.len() <= TALLIES_AT && TALLIES_AT + Tally::ALL.len() <= COUNTERS);

/// Why something was given up. Each failure increments one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DropReason {
    /// No room in the ring buffer for a data record; its bytes become a gap.
    RingFull = 0,
    /// No room in the ring buffer for a record about an end, a close or a process.
    RingFullControl = 1,
    /// The process's memory could not be read (paged out, or changed meanwhile); the bytes become a gap.
    UserFault = 2,
    /// A kernel structure could not be read; the call was not attributed to a connection.
    KernelFault = 3,
    /// A vectored call had more buffers than we walk; the rest of its bytes become a gap.
    TooManyBuffers = 4,
    /// The connection table refused an entry.
    ConnsFull = 5,
    /// The process table refused a forked child, which is therefore not watched.
    TargetsFull = 6,
    /// A TCP connection moved bytes by a call that we did not see, as the kernel's own counters tell; the bytes
    /// become a gap.
    UnseenBytes = 7,
    /// A call to io_uring, which may have moved bytes.
    IoUring = 8,
    /// No room in the ring buffer to tell of a process that a target may be looking for; user space then looks at all
    /// processes.
    NoticeLost = 9,
}

impl DropReason {
    pub const ALL: [DropReason; 10] = [
        Self::RingFull,
        Self::RingFullControl,
        Self::UserFault,
        Self::KernelFault,
        Self::TooManyBuffers,
        Self::ConnsFull,
        Self::TargetsFull,
        Self::UnseenBytes,
        Self::IoUring,
        Self::NoticeLost,
    ];

    /// Name in logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::RingFullControl => "ring_full_control",
            Self::UserFault => "user_fault",
            Self::KernelFault => "kernel_fault",
            Self::TooManyBuffers => "too_many_buffers",
            Self::ConnsFull => "conns_full",
            Self::TargetsFull => "targets_full",
            Self::UnseenBytes => "unseen_bytes",
            Self::IoUring => "io_uring",
            Self::NoticeLost => "notice_lost",
        }
    }
}

/// How much moved on the targets' server connections, over all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tally {
    /// Bytes moved.
    BytesSeen = 0,
    /// Bytes copied into records.
    BytesCaptured = 1,
    /// Bytes not needed, by user space's word.
    BytesMuted = 2,
    /// Records submitted, of every kind.
    Records = 3,
}

impl Tally {
    pub const ALL: [Tally; 4] = [Self::BytesSeen, Self::BytesCaptured, Self::BytesMuted, Self::Records];

    /// Name in logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::BytesSeen => "bytes_seen",
            Self::BytesCaptured => "bytes_captured",
            Self::BytesMuted => "bytes_muted",
            Self::Records => "records",
        }
    }
}
