//! A system call that moved bytes: which buffer, which direction, how many.

use agent_common::{
    conn::{ConnState, Direction, role},
    drops::{DropReason, Tally},
    event::{Kind, RecordHeader, flag},
    limits::{MMSG_MESSAGES, NUDGE_BYTES, ROLE_PREFIX},
};
use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;

use crate::{
    arch::{self, Abi, Args, Regs, nr, nr32},
    capture::{
        Marks, Pair, Pieces, Source, Walk, tap_gathered, tap_one_piece, tap_walk_unrolled, tap_walk_with_loop,
    },
    conns::{self, Origin},
    emit::{self, Wake},
    raw,
    role::{Standing, Verdict, begins_tls, judge},
    sampling,
    socket::{self, Sock, Socket},
    target::{self, Current},
};

/// Receive flags (include/linux/socket.h) whose calls move nothing of the stream: a look without taking,
/// the error queue, urgent data.
const MSG_OOB: u64 = 0x1;
const MSG_PEEK: u64 = 0x2;
const MSG_ERRQUEUE: u64 = 0x2000;
const NOT_THE_STREAM: u64 = MSG_OOB | MSG_PEEK | MSG_ERRQUEUE;
/// On TCP, the bytes are taken from the stream and thrown away (tcp(7)).
const MSG_TRUNC: u64 = 0x20;

const ECONNRESET: i64 = 104;
const EINPROGRESS: i64 = 115;
const SHUT_RD: u64 = 0;

/// The end of a system call that returned `result`.
#[inline(always)]
pub fn on_exit(
    ctx: &impl EbpfContext,
    regs: impl FnOnce() -> Regs,
    result: i64,
    walk: Walk,
) -> Result<i32, DropReason> {
    let Some(current) = target::current() else { return Ok(0) };
    let registers = regs().read()?;
    let number = registers.number();
    // The common calls of a server that move nothing (epoll_wait, futex, ...) end here.
    let compat = arch::native_of_compat(number);
    if shape_of(number).is_none() && compat.is_none() && number != nr32::SOCKETCALL {
        return Ok(0);
    }
    let abi = Abi::current();
    let mut args = registers.args(abi);
    let number = match abi {
        Abi::Native => number,
        Abi::Compat if number == nr32::SOCKETCALL => {
            let Some(number) = arch::native_of_socketcall(u64::from(args.fd)) else { return Ok(0) };
            args = args.of_socketcall()?;
            number
        }
        Abi::Compat => compat.unwrap_or(u64::MAX),
    };
    // verifier: the compiler would take up the answer from above, and read what is not there where there was none; up to
    // Linux 6.2 that is an error.
    let Some(shape) = shape_of(core::hint::black_box(number)) else { return Ok(0) };
    match shape {
        Shape::Accept => accepted(ctx, current, result)?,
        Shape::Connect => connected(current, &args, result)?,
        Shape::Shutdown => shut_down(current, &args, result)?,
        Shape::IoUring => return Err(DropReason::IoUring),
        Shape::Splice => spliced(current, &args, result, walk)?,
        Shape::Receive(form) => received(current, &args, result, form, abi, walk)?,
        Shape::Send(form) => sent(current, &args, result, form, abi, walk)?,
    }
    Ok(0)
}

/// What a system call does to sockets.
#[derive(Clone, Copy)]
enum Shape {
    Receive(Form),
    Send(Form),
    Splice,
    Accept,
    Connect,
    Shutdown,
    IoUring,
}

/// How a call names its buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// (fd, buffer, length)
    Buffer,
    /// (fd, buffer, length, flags)
    BufferFlags,
    /// (fd, iovecs, count)
    Iovecs,
    /// (fd, message, flags)
    Message,
    /// (fd, messages, count, flags)
    Messages,
    /// (fd, input, ...): bytes that never pass through the process.
    File,
}

#[inline(always)]
fn shape_of(number: u64) -> Option<Shape> {
    Some(match number {
        nr::READ => Shape::Receive(Form::Buffer),
        nr::WRITE => Shape::Send(Form::Buffer),
        nr::RECVFROM => Shape::Receive(Form::BufferFlags),
        nr::SENDTO => Shape::Send(Form::BufferFlags),
        nr::READV | nr::PREADV2 => Shape::Receive(Form::Iovecs),
        nr::WRITEV | nr::PWRITEV2 => Shape::Send(Form::Iovecs),
        nr::RECVMSG => Shape::Receive(Form::Message),
        nr::SENDMSG => Shape::Send(Form::Message),
        nr::RECVMMSG => Shape::Receive(Form::Messages),
        nr::SENDMMSG => Shape::Send(Form::Messages),
        nr::SENDFILE => Shape::Send(Form::File),
        nr::SPLICE => Shape::Splice,
        nr::ACCEPT | nr::ACCEPT4 => Shape::Accept,
        nr::CONNECT => Shape::Connect,
        nr::SHUTDOWN => Shape::Shutdown,
        nr::IO_URING_SETUP | nr::IO_URING_ENTER => Shape::IoUring,
        _ => return None,
    })
}

#[inline(always)]
fn received(
    current: Current,
    args: &Args,
    result: i64,
    form: Form,
    abi: Abi,
    walk: Walk,
) -> Result<(), DropReason> {
    let flags = match form {
        Form::BufferFlags | Form::Messages => args.fourth,
        Form::Message => args.third,
        Form::Buffer | Form::Iovecs | Form::File => 0,
    };
    if flags & NOT_THE_STREAM != 0 {
        return Ok(());
    }
    if result <= 0 {
        // A receive of nothing is the peer's end, unless nothing was asked for.
        let asked = form == Form::Message || args.third > 0;
        if (result == 0 && asked) || result == -ECONNRESET {
            return ended(current, args.fd, Direction::Ingress);
        }
        return Ok(());
    }
    let flags = Moved { direction: Direction::Ingress, discarded: flags & MSG_TRUNC != 0, abi };
    moved(current, args, result as u64, form, flags, walk)
}

#[inline(always)]
fn sent(
    current: Current,
    args: &Args,
    result: i64,
    form: Form,
    abi: Abi,
    walk: Walk,
) -> Result<(), DropReason> {
    if result <= 0 {
        return Ok(());
    }
    if matches!(form, Form::BufferFlags | Form::Messages) && args.fourth & MSG_OOB != 0 {
        return Ok(());
    }
    let flags = Moved { direction: Direction::Egress, discarded: false, abi };
    moved(current, args, result as u64, form, flags, walk)
}

/// A call that moved `result` bytes, or, for `Form::Messages`, messages.
#[inline(always)]
fn moved(
    current: Current,
    args: &Args,
    result: u64,
    form: Form,
    flags: Moved,
    walk: Walk,
) -> Result<(), DropReason> {
    let Some(socket) = socket::find(args.fd)? else { return Ok(()) };
    if form == Form::Messages {
        return messages(current, socket, args.second, result, flags, walk);
    }
    let source = match form {
        _ if flags.discarded => Source::unreadable(),
        Form::File => Source::unreadable(),
        Form::Iovecs => Source::iovecs(args.second, args.third, flags.abi),
        Form::Message => message_source(args.second, flags.abi)?,
        _ => Source::buffer(args.second),
    };
    account(current, socket, source, Amount { moved: result, later: 0 }, flags.direction, walk);
    Ok(())
}

/// `recvmmsg` and `sendmmsg`: `count` messages moved, each with a length of its own.
#[inline(always)]
fn messages(
    current: Current,
    socket: Socket,
    first: u64,
    count: u64,
    flags: Moved,
    walk: Walk,
) -> Result<(), DropReason> {
    let (message_len, len_offset) = flags.abi.mmsghdr();
    let len = |index: u32| -> Result<u64, DropReason> {
        let address = first + u64::from(index) * message_len + len_offset;
        raw::read_user::<u32>(address).map(u64::from).ok_or(DropReason::UserFault)
    };
    let mut later = 0;
    // verifier: a constant bound.
    for index in 0..MMSG_MESSAGES {
        if u64::from(index) < count {
            later += len(index)?;
        }
    }
    for index in 0..MMSG_MESSAGES {
        if u64::from(index) >= count {
            return Ok(());
        }
        let len = len(index)?;
        later = later.saturating_sub(len);
        if len > 0 {
            let source = message_source(first + u64::from(index) * message_len, flags.abi)?;
            account(current, socket, source, Amount { moved: len, later }, flags.direction, walk);
        }
    }
    if count > u64::from(MMSG_MESSAGES) { Err(DropReason::TooManyBuffers) } else { Ok(()) }
}

#[inline(always)]
fn message_source(message: u64, abi: Abi) -> Result<Source, DropReason> {
    let [iovecs, count] = abi.message_iovecs(message).ok_or(DropReason::UserFault)?;
    Ok(Source::iovecs(iovecs, count, abi))
}

/// `splice(fd_in, off_in, fd_out, off_out, len, flags)`: one of the two is a pipe, the other may be ours.
#[inline(always)]
fn spliced(current: Current, args: &Args, result: i64, walk: Walk) -> Result<(), DropReason> {
    if result <= 0 {
        return Ok(());
    }
    let (socket, direction) = match socket::find(args.fd)? {
        Some(socket) => (socket, Direction::Ingress),
        None => match socket::find(args.third as u32)? {
            Some(socket) => (socket, Direction::Egress),
            None => return Ok(()),
        },
    };
    let amount = Amount { moved: result as u64, later: 0 };
    account(current, socket, Source::unreadable(), amount, direction, walk);
    Ok(())
}

/// Which way bytes moved, whether the call threw them away, and how it names buffers.
#[derive(Clone, Copy)]
struct Moved {
    direction: Direction,
    discarded: bool,
    abi: Abi,
}

/// How many bytes moved, and how many the same call moved after them.
#[derive(Clone, Copy)]
struct Amount {
    moved: u64,
    later: u64,
}

/// Accounts for bytes that moved, on a connection that we know or meet with them, and emits what is wanted of them.
///
/// verifier: the walk is called from here rather than by `tap_account`, whose frame would lie between them
/// (512 bytes for all frames together up to Linux 6.12).
#[inline(always)]
fn account(
    current: Current,
    socket: Socket,
    source: Source,
    amount: Amount,
    direction: Direction,
    walk: Walk,
) {
    let shape = Pair::new(source.count, direction as u32).0;
    let tap = || tap_account(socket.conn, source.address, shape, amount.moved, amount.later);
    let mut answer = tap();
    if answer == NOT_KNOWN && tap_meet(socket.conn, socket.file, current.target.into()) == 1 {
        answer = tap();
    }
    if answer & WITH_PEER != 0 {
        tap_peer(socket.conn);
    }
    match (answer & !WITH_PEER, walk) {
        (ONE_PIECE, _) => tap_one_piece(),
        (GATHERED, _) => tap_gathered(),
        (WALK, Walk::WithLoop) => tap_walk_with_loop(),
        (WALK, Walk::Unrolled) => tap_walk_unrolled(),
        _ => return,
    };
}

/// Enters a connection that was there before us. 1 when it is one that we watch.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tap_meet(conn: u64, file: u64, target: u64) -> u64 {
    match conns::enter(Socket { conn, file }, target as u32, Origin::MetInTheMiddle) {
        Ok(is_watched) => u64::from(is_watched),
        Err(reason) => {
            raw::count_drop(reason);
            0
        }
    }
}

const DONE: u64 = 0;
const NOT_KNOWN: u64 = 1;
/// What is wanted is in `raw::pieces`, and goes out in this way.
const ONE_PIECE: u64 = 2;
const GATHERED: u64 = 3;
const WALK: u64 = 4;
/// Added to that: before it, user space wants to know who is at the other end.
const WITH_PEER: u64 = 8;

/// Accounts for `moved` bytes of connection `conn`; says what is to be done about those that are wanted. `shape` is the
/// source's count and, above it, the direction.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tap_account(conn: u64, source: u64, shape: u64, moved: u64, later: u64) -> u64 {
    let shape = Pair(shape);
    let source = Source { address: source, count: shape.low() };
    let direction = if shape.high() == 0 { Direction::Ingress } else { Direction::Egress };
    let Some(state) = raw::conn_state(conn) else { return NOT_KNOWN };
    if state.role == role::IGNORED {
        return DONE;
    }
    let Some(wanted) = wanted_of(conn, state, source, moved, later, direction) else { return DONE };
    let Some(pieces) = raw::pieces() else { return DONE };
    *pieces = Pieces::new(conn, wanted.base, source, moved, wanted.skip, wanted.marks);
    let left = moved - wanted.skip;
    let way = if left > 0 && source.is_piece(left) && left <= sampling::per_call(left) {
        ONE_PIECE
    } else if wanted.skip == 0 && source.is_gathered(moved) {
        GATHERED
    } else {
        WALK
    };
    if wanted.with_peer { way | WITH_PEER } else { way }
}

/// Tells who is at the other end of connection `conn`. Without room for that, it stays unknown until the next turn.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tap_peer(conn: u64) -> u64 {
    if let Err(reason) = tell_peer(conn) {
        raw::count_drop(reason);
    }
    0
}

#[inline(always)]
fn tell_peer(conn: u64) -> Result<(), DropReason> {
    let Some(state) = raw::conn_state(conn) else { return Ok(()) };
    if let Some(peer) = Sock(state.sock).peer()? {
        let header = RecordHeader::peer(conn, state, peer, raw::now_ns());
        emit::control(&header, Wake::WhenWorthwhile).ok_or(DropReason::RingFullControl)?;
    }
    state.peer_told = 1;
    Ok(())
}

/// What of a call user space wants.
struct Wanted {
    /// Position of the call's first byte.
    base: u64,
    /// Bytes at the call's beginning that are not wanted.
    skip: u64,
    marks: Marks,
    /// User space is to be told who is at the other end, before the bytes.
    with_peer: bool,
}

/// Moves the connection's position on; decides its role while that is open. `None`: nothing is wanted.
#[inline(always)]
fn wanted_of(
    conn: u64,
    state: &mut ConnState,
    source: Source,
    moved: u64,
    later: u64,
    direction: Direction,
) -> Option<Wanted> {
    let base = conns::advance(state, direction, moved, later)?;
    if state.role == role::SAMPLED_OUT && !sampling::takes_in(conn, state, direction) {
        return None;
    }
    // Nothing of a turn counts before the role is decided: the first record begins the first turn.
    if state.role == role::UNKNOWN && !decide_role(state, source, moved, direction) {
        return None;
    }
    let turn_start = take_turn(state, direction);
    let mute = raw::mute_of(conn);
    let until = match direction {
        Direction::Ingress => mute.ingress_until,
        Direction::Egress => mute.egress_until,
    };
    // Looked at once a turn: the switches may come on in the middle of a connection.
    let begins = turn_start && direction as u8 == Direction::Ingress as u8;
    // What is muted is left alone: it is in the middle of a request, or none of ours.
    if begins && until <= base && sampling::leaves_out(conn, state) {
        return None;
    }
    raw::tally(Tally::BytesSeen, moved);
    let skip = until.saturating_sub(base);
    if skip > moved || until == u64::MAX {
        raw::tally(Tally::BytesMuted, moved);
        return None;
    }
    if skip > 0 {
        raw::tally(Tally::BytesMuted, skip);
    }
    state.turn_bytes = state.turn_bytes.wrapping_add(moved - skip);
    let mut wake = Wake::WhenWorthwhile;
    if state.turn_bytes >= NUDGE_BYTES && state.nudged == 0 {
        state.nudged = 1;
        wake = Wake::Now;
    }
    let with_peer = begins && state.peer_told == 0 && raw::tells_peers();
    let from_start = if state.from_start == 1 { flag::FROM_START } else { 0 };
    let turn_start = if turn_start { flag::TURN_START } else { 0 };
    Some(Wanted {
        base,
        skip,
        marks: Marks::new(direction, from_start | turn_start | flag::CALL_START, wake),
        with_peer,
    })
}

/// Decides what the connection is used for, by the bytes at hand. True when the target is the server.
#[inline(always)]
fn decide_role(state: &mut ConnState, source: Source, moved: u64, direction: Direction) -> bool {
    let verdict = match direction {
        // A server does not speak first, unless it was spoken to behind our back.
        Direction::Egress => {
            let _ = conns::advance(state, Direction::Ingress, 0, 0);
            Verdict::Other
        }
        Direction::Ingress => {
            let mut prefix = [0; ROLE_PREFIX];
            let (address, len) = source.first_buffer(moved);
            let len = raw::read_user_bytes(&mut prefix, address, len.min(ROLE_PREFIX as u64) as u32);
            if state.from_start == 0 {
                judge(&prefix, len, Standing::MetInTheMiddle)
            } else if begins_tls(&prefix, len) {
                Verdict::Request
            } else {
                judge(&prefix, len, Standing::AtStart)
            }
        }
    };
    match verdict {
        Verdict::Request => state.role = role::SERVER,
        Verdict::Undecided => {}
        Verdict::Other if state.from_start == 1 => state.role = role::IGNORED,
        Verdict::Other => {}
    }
    verdict == Verdict::Request
}

/// Moves the turn on when the direction changes. True when this call begins its direction's part.
#[inline(always)]
fn take_turn(state: &mut ConnState, direction: Direction) -> bool {
    let changed = state.last_direction != direction as u8;
    if changed {
        state.last_direction = direction as u8;
        state.turn_bytes = 0;
        state.nudged = 0;
        if direction == Direction::Ingress {
            state.turn = state.turn.wrapping_add(1);
        }
    }
    changed
}

/// A new connection: `result` is its descriptor.
#[inline(always)]
fn accepted(ctx: &impl EbpfContext, current: Current, result: i64) -> Result<(), DropReason> {
    if result < 0 {
        return Ok(());
    }
    if let Some(socket) = socket::find(result as u32)?
        && conns::enter(socket, current.target, Origin::Accepted)?
    {
        debug!(ctx, "pid {}: accepted connection {}", current.pid, socket.conn);
    }
    Ok(())
}

/// A connection of the target's own to somebody else.
#[inline(always)]
fn connected(current: Current, args: &Args, result: i64) -> Result<(), DropReason> {
    if result != 0 && result != -EINPROGRESS {
        return Ok(());
    }
    if let Some(socket) = socket::find(args.fd)? {
        conns::enter(socket, current.target, Origin::Connected)?;
    }
    Ok(())
}

#[inline(always)]
fn shut_down(current: Current, args: &Args, result: i64) -> Result<(), DropReason> {
    if result != 0 || args.second == SHUT_RD {
        return Ok(());
    }
    ended(current, args.fd, Direction::Egress)
}

/// No more bytes will come in this direction.
#[inline(always)]
fn ended(current: Current, fd: u32, direction: Direction) -> Result<(), DropReason> {
    let Some(socket) = socket::find(fd)? else { return Ok(()) };
    let Some(state) = raw::conn_state(socket.conn) else { return Ok(()) };
    // Not at its end: the descriptor was closed, and is another connection's, since the call began.
    if state.role != role::SERVER || !Sock(state.sock).has_ended(direction)? {
        return Ok(());
    }
    let header = RecordHeader {
        ktime_ns: raw::now_ns(),
        conn: socket.conn,
        offset: conns::advance(state, direction, 0, 0).unwrap_or(0),
        original_len: state.untold,
        turn: state.turn,
        target: state.target,
        pid: current.pid,
        local_port: state.local_port,
        kind: Kind::End as u8,
        direction: direction as u8,
        ..RecordHeader::default()
    };
    emit::control(&header, Wake::WhenWorthwhile).ok_or(DropReason::RingFullControl)
}
