//! Reserve, fill, submit, or count the drop.

use agent_common::{
    drops::{DropReason, Tally},
    event::RecordHeader,
    limits::{CLASS_PAYLOADS, GATHERED_BUFFERS},
};
use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    maps::ring_buf::RingBufEntry,
};

use crate::{
    capture::Source,
    maps::{RECORDS, SETTINGS},
    raw::{self, Slot},
};

/// Whether user space must look at once, or when enough is waiting.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    WhenWorthwhile,
    Now,
}

/// Emits a data record with `header.captured_len` bytes from `address`, at most `PIECE_MAX`. When they cannot be
/// read the record goes out without them: their number and time are worth having.
#[inline(always)]
pub fn data(header: &mut RecordHeader, address: u64, wake: Wake) -> Result<(), DropReason> {
    let wake = Waking { wake, waiting: room_for_data()? };
    let len = header.captured_len as usize;
    if len == 0 {
        in_class::<0>(header, address, wake)
    } else if len <= CLASS_PAYLOADS[0] {
        in_class::<{ CLASS_PAYLOADS[0] }>(header, address, wake)
    } else if len <= CLASS_PAYLOADS[1] {
        in_class::<{ CLASS_PAYLOADS[1] }>(header, address, wake)
    } else if len <= CLASS_PAYLOADS[2] {
        in_class::<{ CLASS_PAYLOADS[2] }>(header, address, wake)
    } else if len <= CLASS_PAYLOADS[3] {
        in_class::<{ CLASS_PAYLOADS[3] }>(header, address, wake)
    } else if len <= CLASS_PAYLOADS[4] {
        in_class::<{ CLASS_PAYLOADS[4] }>(header, address, wake)
    } else if len <= CLASS_PAYLOADS[5] {
        in_class::<{ CLASS_PAYLOADS[5] }>(header, address, wake)
    } else if len <= CLASS_PAYLOADS[6] {
        in_class::<{ CLASS_PAYLOADS[6] }>(header, address, wake)
    } else {
        in_class::<{ CLASS_PAYLOADS[7] }>(header, address, wake)
    }
}

type Buffers = [[u64; 2]; GATHERED_BUFFERS];

/// Emits a data record with the first `header.captured_len` bytes of a few buffers, at most `GATHERED`.
#[inline(always)]
pub fn gathered(header: &mut RecordHeader, source: Source, wake: Wake) -> Result<(), DropReason> {
    let wake = Waking { wake, waiting: room_for_data()? };
    let Some(buffers) = source.first_iovecs() else {
        header.captured_len = 0;
        in_class::<0>(header, 0, wake)?;
        return Err(DropReason::UserFault);
    };
    // See `raw::fill_behind`.
    let room = 2 * header.captured_len as usize;
    if room <= CLASS_PAYLOADS[0] {
        gathered_in_class::<{ CLASS_PAYLOADS[0] }>(header, buffers, wake)
    } else if room <= CLASS_PAYLOADS[1] {
        gathered_in_class::<{ CLASS_PAYLOADS[1] }>(header, buffers, wake)
    } else if room <= CLASS_PAYLOADS[2] {
        gathered_in_class::<{ CLASS_PAYLOADS[2] }>(header, buffers, wake)
    } else if room <= CLASS_PAYLOADS[3] {
        gathered_in_class::<{ CLASS_PAYLOADS[3] }>(header, buffers, wake)
    } else {
        gathered_in_class::<{ CLASS_PAYLOADS[4] }>(header, buffers, wake)
    }
}

/// Bytes that wait before a data record; records about ends, closes and processes find room when it does not.
#[inline(always)]
fn room_for_data() -> Result<u64, DropReason> {
    let waiting = waiting();
    if waiting > u64::from(SETTINGS.load().data_bytes) { Err(DropReason::RingFull) } else { Ok(waiting) }
}

#[inline(always)]
fn in_class<const PAYLOAD: usize>(
    header: &mut RecordHeader,
    address: u64,
    wake: Waking,
) -> Result<(), DropReason> {
    let mut slot = raw::reserve::<PAYLOAD>().ok_or(DropReason::RingFull)?;
    let mut outcome = Ok(());
    if PAYLOAD > 0 && !raw::fill(&mut slot, address, header.captured_len) {
        header.captured_len = 0;
        outcome = Err(DropReason::UserFault);
    }
    submit(slot, header, wake);
    outcome
}

#[inline(always)]
fn gathered_in_class<const PAYLOAD: usize>(
    header: &mut RecordHeader,
    buffers: Buffers,
    wake: Waking,
) -> Result<(), DropReason> {
    let mut slot = raw::reserve::<PAYLOAD>().ok_or(DropReason::RingFull)?;
    let (len, mut got, mut outcome) = (header.captured_len, 0, Ok(()));
    for [address, room] in buffers {
        if got >= len {
            break;
        }
        let piece = room.min(u64::from(len - got)) as u32;
        if !raw::fill_behind(&mut slot, got, address, piece) {
            outcome = Err(DropReason::UserFault);
            break;
        }
        got += piece;
    }
    header.captured_len = got;
    submit(slot, header, wake);
    outcome
}

#[inline(always)]
fn submit<const PAYLOAD: usize>(mut slot: RingBufEntry<Slot<PAYLOAD>>, header: &RecordHeader, wake: Waking) {
    raw::set_header(&mut slot, header);
    slot.submit(wake.flag::<PAYLOAD>());
    raw::tally(Tally::Records, 1);
    if PAYLOAD > 0 {
        raw::tally(Tally::BytesCaptured, u64::from(header.captured_len));
    }
}

/// Emits a record about an end, a close or a process. There is room for some when there is none for data.
#[inline(always)]
pub fn control(header: &RecordHeader, wake: Wake) -> Option<()> {
    let wake = Waking { wake, waiting: waiting() };
    let slot = raw::reserve::<0>()?;
    submit(slot, header, wake);
    Some(())
}

/// Bytes that wait to be read.
#[inline(always)]
fn waiting() -> u64 {
    RECORDS.query(u64::from(BPF_RB_AVAIL_DATA))
}

/// The choice, and the bytes that wait before the record.
#[derive(Clone, Copy)]
struct Waking {
    wake: Wake,
    waiting: u64,
}

impl Waking {
    /// For a record with room for `PAYLOAD` bytes. It wakes user space when with it another `wakeup_bytes` wait. Not when
    /// they do so already: user space takes a while to come, and each call for it interrupts the processor.
    #[inline(always)]
    fn flag<const PAYLOAD: usize>(self) -> u64 {
        let mark = u64::from(SETTINGS.load().wakeup_bytes);
        let with_this = self.waiting + size_of::<Slot<PAYLOAD>>() as u64;
        // A power of two: its multiples are counted by the bits from its own on.
        let now = self.wake == Wake::Now || with_this ^ self.waiting >= mark;
        u64::from(if now { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
    }
}
