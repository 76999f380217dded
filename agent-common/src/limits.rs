//! Every size and count both sides rely on, each with its reason.

/// Payload of the ring-buffer size classes. `bpf_ringbuf_reserve` wants a size the verifier knows, so there
/// is one reservation per class instead of one of the largest size. The classes are heads and short messages in four
/// sizes, since room that is left over is memory that both sides drag through their caches, a piece of a long
/// message, and two for the bulk of very long ones.
pub const CLASS_PAYLOADS: [usize; 8] = [256, 512, 1024, 2048, 4096, 16_384, 65_536, 262_144];

/// Largest piece of one record, bytes. The two largest classes are used only where there is enough to fill
/// them, so that nothing is wasted; this is the largest of the others.
pub const PIECE: usize = CLASS_PAYLOADS[5];
pub const PIECE_MAX: usize = CLASS_PAYLOADS[7];

/// A call with up to this many buffers that moved up to this many bytes is one record: the heads and the short bodies
/// that servers write in one go.
pub const GATHERED_BUFFERS: usize = 4;
pub const GATHERED: usize = CLASS_PAYLOADS[4] / 2;

/// Bytes copied from the beginning of one call. Servers on asyncio and uvloop read up to 256 KiB at once, those
/// on hyper up to 480 KiB, and a chunked body is exact only when each of its chunk sizes is seen; what is known
/// not to be needed is muted.
pub const CAPTURE_PER_CALL: usize = 512 * 1024;

/// The least that may be asked for instead ([`crate::conn::Capture`]): heads are rarely longer.
pub const CAPTURE_LEAST: usize = 4 * 1024;

/// Bytes copied from the end of a call that exceeds [`CAPTURE_PER_CALL`], room for the end of a chunked body
/// with a few trailer fields; and from the beginning of each further buffer of such a call, since servers that
/// write many chunks at once put the size of each into a buffer of its own.
pub const TAIL: usize = 256;

/// Buffers walked in one vectored call: with `bpf_loop` (Linux 5.17), and without it.
pub const IOVECS_WITH_LOOP: u32 = 1024;
pub const IOVECS_UNROLLED: u32 = 64;

/// Messages looked at in one `sendmmsg`/`recvmmsg`. On stream sockets these calls are rare.
pub const MMSG_MESSAGES: u32 = 8;

/// Bytes looked at when the role of a connection is decided: a few empty lines (RFC 9112 section 2.2), a
/// method (the hub takes 16 characters) and a space.
pub const ROLE_PREFIX: usize = 24;

/// Connections whose positions the kernel side keeps. Least recently used out first; an evicted connection
/// starts over as one met in the middle.
pub const CONNS: u32 = 65_536;

/// Room for mutes: as many as connections, in sets of a few. When a set is full, another connection's mute goes;
/// that costs records, no more.
pub const MUTE_SLOTS: usize = 4;
pub const MUTE_SETS: u32 = CONNS / MUTE_SLOTS as u32;
const _: () = assert!(MUTE_SETS.is_power_of_two());

/// Targets; their numbers are below this.
pub const TARGETS: u32 = 1024;

/// Processes (thread groups) of all targets together. A fork beyond it is counted (`TargetsFull`).
pub const TARGET_PROCESSES: u32 = 16_384;

/// Slots of the first look whether a process is a target's: 64 KiB.
pub const PID_SLOTS: u32 = 8192;
const _: () = assert!(PID_SLOTS.is_power_of_two());

/// Ring buffer, bytes; a power of two. Its pages count twice in our resident memory (they are mapped twice
/// in a row), so this is a trade of 16 MiB resident for about 100 ms of the harshest load.
pub const RING_BYTES: u32 = 8 * 1024 * 1024;

/// Notices of processes wake user space no more often than this, nanoseconds: the first one after a while does, so that
/// a server is found before it serves; where thousands a second come, the others wait for the next look at the records.
pub const NOTICE_WAKES_NS: u64 = 10_000_000;

/// A message that has brought this many reported bytes in one turn wakes user space at once, so that the
/// rest of it can be muted: at 1 GB/s, 100 ms of waiting would be 1,600 records.
pub const NUDGE_BYTES: u64 = 256 * 1024;
