//! A call that moved bytes: which of them to copy, from which of its buffers.
//!
//! The bytes of a call are numbered from 0 to `moved`. What is copied is a window at the beginning (behind
//! what user space has muted), the first bytes of each buffer behind it, and a short tail; window and tail may
//! lie across any number of buffers. One step of the walk handles one piece of one buffer, so there is one
//! loop, whatever the shape of the call.
//!
//! verifier: the functions with a C name are global functions, which it checks once, on their own, for
//! any arguments (Linux 5.6). Inlined, the ways to get here times the steps of the walk are more than it
//! is willing to follow. They may take five integers at most; hence the packed ones.

use core::ffi::c_void;

use agent_common::{
    conn::{ConnState, Direction},
    drops::DropReason,
    event::{Kind, RecordHeader, flag},
    limits::{
        CAPTURE_PER_CALL, CLASS_PAYLOADS, GATHERED, GATHERED_BUFFERS, IOVECS_UNROLLED, IOVECS_WITH_LOOP,
        PIECE, TAIL,
    },
};

use crate::{
    arch::Abi,
    conns,
    emit::{self, Wake},
    raw, sampling,
};

/// Where the bytes of a call are in the process's memory.
#[derive(Clone, Copy)]
pub struct Source {
    /// Of the buffer, or of the first `struct iovec`.
    pub address: u64,
    /// Number of `struct iovec`, and whether they are those of a 32-bit call; or one of the two below.
    pub count: u32,
}

impl Source {
    /// `address` is that of the one buffer.
    const BUFFER: u32 = u32::MAX;
    /// Nowhere (sendfile, splice, or discarded by the call): counted, not copied.
    const UNREADABLE: u32 = u32::MAX - 1;
    /// Added to the number of `struct iovec`.
    const COMPAT: u32 = 1 << 16;

    #[inline(always)]
    pub fn buffer(address: u64) -> Self {
        Self { address, count: Self::BUFFER }
    }

    #[inline(always)]
    pub fn iovecs(address: u64, count: u64, abi: Abi) -> Self {
        let compat = if abi == Abi::Compat { Self::COMPAT } else { 0 };
        // The kernel refuses more than UIO_MAXIOV, 1,024.
        Self { address, count: count.min(1024) as u32 | compat }
    }

    /// Whether the `moved` bytes are those of one buffer and one record, as with most calls.
    #[inline(always)]
    pub fn is_piece(self, moved: u64) -> bool {
        self.count == Self::BUFFER && moved <= PIECE as u64
    }

    /// Whether the `moved` bytes are those of a few buffers and one record.
    #[inline(always)]
    pub fn is_gathered(self, moved: u64) -> bool {
        self.iovec_count() <= GATHERED_BUFFERS as u32 && moved <= GATHERED as u64
    }

    /// Address and length of the first buffers, as many as there are.
    #[inline(always)]
    pub fn first_iovecs(self) -> Option<[[u64; 2]; GATHERED_BUFFERS]> {
        let mut iovecs = [[0; 2]; GATHERED_BUFFERS];
        if self.abi() == Abi::Native {
            return raw::read_user_array(&mut iovecs, self.address, self.iovec_count()).then_some(iovecs);
        }
        for (index, iovec) in (0..self.iovec_count()).zip(&mut iovecs) {
            *iovec = self.iovec(index)?;
        }
        Some(iovecs)
    }

    /// Address and length of buffer `index`.
    #[inline(always)]
    fn iovec(self, index: u32) -> Option<[u64; 2]> {
        let abi = self.abi();
        abi.iovec(self.address + u64::from(index) * abi.iovec_len())
    }

    #[inline(always)]
    fn abi(self) -> Abi {
        if self.count & Self::COMPAT != 0 { Abi::Compat } else { Abi::Native }
    }

    /// Number of `struct iovec`.
    #[inline(always)]
    fn iovec_count(self) -> u32 {
        self.count & !Self::COMPAT
    }

    #[inline(always)]
    pub fn unreadable() -> Self {
        Self { address: 0, count: Self::UNREADABLE }
    }

    /// The first buffer that is not empty: address and length, of the `moved` bytes.
    #[inline(always)]
    pub fn first_buffer(self, moved: u64) -> (u64, u64) {
        match self.count {
            Self::UNREADABLE => (0, 0),
            Self::BUFFER => (self.address, moved),
            _ => self.first_of_several(moved).unwrap_or((0, 0)),
        }
    }

    #[inline(always)]
    fn first_of_several(self, moved: u64) -> Option<(u64, u64)> {
        // verifier: a constant bound. More empty buffers than these are an oddity that nobody was seen to need.
        for index in 0..EMPTY_BUFFERS {
            if index >= self.iovec_count() {
                break;
            }
            let [address, len] = self.iovec(index)?;
            if len > 0 {
                return Some((address, len.min(moved)));
            }
        }
        None
    }
}

/// How to loop over buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// `bpf_loop`, Linux 5.17.
    WithLoop,
    /// An ordinary bounded loop, which the verifier walks through.
    Unrolled,
}

/// Direction, flags and urgency of a call's records, in one integer.
#[derive(Clone, Copy)]
pub struct Marks(pub u64);

impl Marks {
    const EGRESS: u64 = 1 << 8;
    const WAKE: u64 = 1 << 9;
    const STARTS: u64 = (flag::CALL_START | flag::TURN_START) as u64;

    /// `flags` are those of [`flag`].
    #[inline(always)]
    pub fn new(direction: Direction, flags: u8, wake: Wake) -> Self {
        let egress = if direction == Direction::Egress { Self::EGRESS } else { 0 };
        let wake = if wake == Wake::Now { Self::WAKE } else { 0 };
        Self(u64::from(flags) | egress | wake)
    }

    #[inline(always)]
    pub fn direction(self) -> Direction {
        if self.0 & Self::EGRESS != 0 { Direction::Egress } else { Direction::Ingress }
    }

    #[inline(always)]
    fn wake(self) -> Wake {
        if self.0 & Self::WAKE != 0 { Wake::Now } else { Wake::WhenWorthwhile }
    }

    /// The marks of a record that begins at byte `at` of its call: behind the first byte it begins
    /// neither a call nor a turn.
    #[inline(always)]
    pub fn at(self, at: u64) -> Self {
        if at == 0 { self } else { Self(self.0 & !Self::STARTS) }
    }
}

/// Two 32-bit numbers in one argument.
#[derive(Clone, Copy)]
pub struct Pair(pub u64);

impl Pair {
    #[inline(always)]
    pub fn new(low: u32, high: u32) -> Self {
        Self(u64::from(low) | u64::from(high) << 32)
    }

    #[inline(always)]
    pub fn low(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Emits one record of connection `conn` at position `offset`: `lens.low()` bytes from `address`, which
/// stand for `lens.high()` bytes of the stream.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tap_piece(conn: u64, offset: u64, address: u64, lens: u64, marks: u64) -> u64 {
    let marks = Marks(marks);
    let Some(state) = raw::conn_state(conn) else { return 0 };
    let mut header = header(state, conn, offset, Pair(lens), marks);
    note(state, emit::data(&mut header, address, marks.wake()));
    0
}

#[inline(always)]
fn header(state: &ConnState, conn: u64, offset: u64, lens: Pair, marks: Marks) -> RecordHeader {
    RecordHeader {
        ktime_ns: raw::now_ns(),
        conn,
        offset,
        original_len: lens.high(),
        captured_len: lens.low(),
        turn: state.turn,
        target: state.target,
        pid: raw::current_pid(),
        local_port: state.local_port,
        kind: Kind::Data as u8,
        direction: marks.direction() as u8,
        flags: marks.0 as u8,
        _pad: 0,
        _pad2: 0,
        _pad4: 0,
    }
}

/// Keeps in mind what became of a data record.
#[inline(always)]
fn note(state: &mut ConnState, outcome: Result<(), DropReason>) {
    if let Err(reason) = outcome {
        raw::count_drop(reason);
    }
    if outcome == Err(DropReason::RingFull) {
        conns::not_told(state);
    } else {
        conns::told(state);
    }
}

/// The walk over the buffers of one call.
///
/// verifier: kept in a map (`maps::PIECES`), of whose values it knows nothing. On the stack it follows the
/// ranges of each number from step to step, and no step looks like the one before; and the frames of the
/// callers together exceed 512 bytes ("combined stack size is 608", Linux 5.10 to 6.12).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pieces {
    conn: u64,
    /// Position in the stream of the call's first byte.
    base: u64,
    marks: Marks,
    /// Bytes the call moved.
    moved: u64,
    /// Bytes at the beginning that are not wanted.
    skip: u64,
    /// The next byte of the call to copy.
    next: u64,
    /// End of the window at the beginning.
    window_end: u64,
    /// First byte that no record has accounted for.
    reported: u64,
    /// The buffer at hand: its first byte's number in the call, its end's, and its address.
    buffer_start: u64,
    buffer_end: u64,
    buffer: u64,
    /// `struct iovec` entries not yet looked at.
    iovecs: u64,
    iovecs_left: u64,
    /// 1 when they are those of a 32-bit call.
    compat: u64,
}

impl Pieces {
    /// Before the first step: `moved` bytes from position `base` on, of which the first `skip` are not
    /// wanted.
    #[inline(always)]
    pub fn new(conn: u64, base: u64, source: Source, moved: u64, skip: u64, marks: Marks) -> Self {
        let is_buffer = source.count == Source::BUFFER;
        let is_iovecs = !is_buffer && source.count != Source::UNREADABLE;
        Self {
            conn,
            base,
            marks,
            moved,
            skip,
            next: skip,
            window_end: (skip + sampling::per_call(moved)).min(moved),
            reported: skip,
            buffer_start: 0,
            buffer_end: if is_buffer { moved } else { 0 },
            buffer: source.address,
            iovecs: source.address,
            iovecs_left: if is_iovecs { u64::from(source.iovec_count()) } else { 0 },
            compat: u64::from(source.abi() == Abi::Compat),
        }
    }

    /// The buffers of a call with several, before the first step.
    #[inline(always)]
    fn source(&self) -> Source {
        let abi = if self.compat == 1 { Abi::Compat } else { Abi::Native };
        Source::iovecs(self.iovecs, self.iovecs_left, abi)
    }
}

/// Emits the one record of a call for which [`Source::is_piece`] holds of what is wanted; `raw::pieces` has the rest of it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tap_one_piece() -> u64 {
    let Some(pieces) = raw::pieces() else { return 0 };
    let len = (pieces.moved - pieces.skip) as u32;
    let (offset, address) = (pieces.base + pieces.skip, pieces.buffer + pieces.skip);
    tap_piece(pieces.conn, offset, address, Pair::new(len, len).0, pieces.marks.at(pieces.skip).0)
}

/// Emits the one record of a call for which [`Source::is_gathered`] holds and of which all is wanted; likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tap_gathered() -> u64 {
    let Some(pieces) = raw::pieces() else { return 0 };
    let Some(state) = raw::conn_state(pieces.conn) else { return 0 };
    let lens = Pair::new(pieces.moved as u32, pieces.moved as u32);
    let mut header = header(state, pieces.conn, pieces.base, lens, pieces.marks);
    note(state, emit::gathered(&mut header, pieces.source(), pieces.marks.wake()));
    0
}

/// Emits the records of one call, which `raw::pieces` holds.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tap_walk_with_loop() -> u64 {
    raw::loop_times(IOVECS_WITH_LOOP * STEPS_PER_BUFFER + BULK_STEPS, step_in_loop);
    finish()
}

/// The same for kernels without `bpf_loop`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tap_walk_unrolled() -> u64 {
    for _ in 0..IOVECS_UNROLLED * STEPS_PER_BUFFER + BULK_STEPS {
        if step() == DONE {
            break;
        }
    }
    finish()
}

/// Buffers among which the first that is not empty is looked for.
const EMPTY_BUFFERS: u32 = 8;
/// Steps for what is large: the pieces of the window, and around the tail.
const BULK_STEPS: u32 = (CAPTURE_PER_CALL / PIECE) as u32 + 4;
/// Steps for a buffer behind the window: copying its beginning, leaving it.
const STEPS_PER_BUFFER: u32 = 2;

/// Accounts for what no step has covered.
#[inline(always)]
fn finish() -> u64 {
    let Some(pieces) = raw::pieces() else { return 0 };
    if pieces.iovecs_left > 0 && pieces.next < pieces.moved {
        raw::count_drop(DropReason::TooManyBuffers);
    }
    // Also a call of which nothing is wanted but that it reached this position.
    if pieces.reported < pieces.moved || (pieces.skip == pieces.moved && pieces.skip > 0) {
        let rest = Pair::new(0, (pieces.moved - pieces.reported) as u32);
        let marks = pieces.marks.at(pieces.reported);
        tap_piece(pieces.conn, pieces.base + pieces.reported, 0, rest.0, marks.0);
    }
    0
}

const CONTINUE: i64 = 0;
const DONE: i64 = 1;

extern "C" fn step_in_loop(_round: u32, _context: *mut c_void) -> i64 {
    step()
}

/// One step of the walk: the next piece of the buffer at hand, or of the next one.
///
/// verifier: the map is asked at every step, or the compiler would keep the numbers on the stack.
#[inline(always)]
fn step() -> i64 {
    raw::pieces().map_or(DONE, advance)
}

#[inline(always)]
fn advance(pieces: &mut Pieces) -> i64 {
    if pieces.next >= pieces.moved {
        return DONE;
    }
    if pieces.next >= pieces.buffer_end {
        if next_buffer(pieces) == DONE {
            return DONE;
        }
        if pieces.next >= pieces.buffer_end {
            return CONTINUE; // nothing in it, or nothing that is wanted
        }
    }
    let tail_start = pieces.moved.saturating_sub(TAIL as u64);
    let buffer_head_end = pieces.buffer_start + TAIL as u64;
    let wanted_end = if pieces.next < pieces.window_end {
        pieces.window_end
    } else if pieces.next >= tail_start {
        pieces.moved
    } else if pieces.next < buffer_head_end {
        buffer_head_end
    } else {
        // Nothing up to the next buffer or the tail; the jump in position tells how much that is.
        pieces.next = pieces.buffer_end.min(tail_start);
        return CONTINUE;
    };
    let available = wanted_end.min(pieces.buffer_end) - pieces.next;
    let len = piece_of(available);
    let address = pieces.buffer + (pieces.next - pieces.buffer_start);
    let marks = pieces.marks.at(pieces.next);
    tap_piece(pieces.conn, pieces.base + pieces.next, address, Pair::new(len as u32, len as u32).0, marks.0);
    pieces.marks.0 &= !Marks::WAKE;
    pieces.next += len;
    pieces.reported = pieces.next;
    CONTINUE
}

/// How much of `available` bytes goes into one record.
#[inline(always)]
fn piece_of(available: u64) -> u64 {
    let bulk = [CLASS_PAYLOADS[7] as u64, CLASS_PAYLOADS[6] as u64];
    if available >= bulk[0] {
        bulk[0]
    } else if available >= bulk[1] {
        bulk[1]
    } else {
        available.min(PIECE as u64)
    }
}

/// Takes up the next buffer of a vectored call.
#[inline(always)]
fn next_buffer(pieces: &mut Pieces) -> i64 {
    if pieces.iovecs_left == 0 {
        return DONE;
    }
    let abi = if pieces.compat == 1 { Abi::Compat } else { Abi::Native };
    let Some([address, len]) = abi.iovec(pieces.iovecs) else {
        raw::count_drop(DropReason::UserFault);
        pieces.iovecs_left = 0;
        return DONE;
    };
    pieces.iovecs += abi.iovec_len();
    pieces.iovecs_left -= 1;
    pieces.buffer = address;
    pieces.buffer_start = pieces.buffer_end;
    // No call moves more than its buffers hold, so a length beyond `moved` is cut without loss; it keeps
    // the sums from overflowing when the process changes the vector meanwhile.
    pieces.buffer_end += len.min(pieces.moved);
    CONTINUE
}
