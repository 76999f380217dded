//! Reserve, fill, submit, or count the drop.

use agent_common::{
    drops::{DropReason, Tally},
    event::RecordHeader,
    limits::CLASS_PAYLOADS,
};
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};

use crate::{
    maps::{RECORDS, SETTINGS},
    raw,
};

/// Whether user space must look at once, or when enough is waiting.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    WhenWorthwhile,
    Now,
}

/// Emits a record with `header.captured_len` bytes from `address`, at most `PIECE_MAX`. When they cannot be
/// read the record goes out without them: their number and time are worth having.
#[inline(always)]
pub fn data(header: &mut RecordHeader, address: u64, wake: Wake) -> Result<(), DropReason> {
    let len = header.captured_len as usize;
    if len == 0 {
        bare(header, wake).ok_or(DropReason::RingFull)
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
    } else {
        in_class::<{ CLASS_PAYLOADS[5] }>(header, address, wake)
    }
}

#[inline(always)]
fn in_class<const PAYLOAD: usize>(
    header: &mut RecordHeader,
    address: u64,
    wake: Wake,
) -> Result<(), DropReason> {
    let mut slot = raw::reserve::<PAYLOAD>().ok_or(DropReason::RingFull)?;
    let mut outcome = Ok(());
    if !raw::fill(&mut slot, address, header.captured_len) {
        header.captured_len = 0;
        outcome = Err(DropReason::UserFault);
    }
    raw::set_header(&mut slot, header);
    slot.submit(flags(wake));
    raw::tally(Tally::Records, 1);
    raw::tally(Tally::BytesCaptured, u64::from(header.captured_len));
    outcome
}

/// Emits a record that is all header.
#[inline(always)]
pub fn bare(header: &RecordHeader, wake: Wake) -> Option<()> {
    let mut slot = raw::reserve::<0>()?;
    raw::set_header(&mut slot, header);
    slot.submit(flags(wake));
    raw::tally(Tally::Records, 1);
    Some(())
}

#[inline(always)]
fn flags(wake: Wake) -> u64 {
    let worthwhile =
        || RECORDS.query(u64::from(BPF_RB_AVAIL_DATA)) >= u64::from(SETTINGS.load().wakeup_bytes);
    u64::from(if wake == Wake::Now || worthwhile() { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}
