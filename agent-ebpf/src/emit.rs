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

/// Emits a data record with `header.captured_len` bytes from `address`, at most `PIECE_MAX`. When they cannot be
/// read the record goes out without them: their number and time are worth having.
#[inline(always)]
pub fn data(header: &mut RecordHeader, address: u64, wake: Wake) -> Result<(), DropReason> {
    let waiting = waiting();
    if waiting > u64::from(SETTINGS.load().data_bytes) {
        return Err(DropReason::RingFull);
    }
    let wake = wake.when(waiting);
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
    if PAYLOAD > 0 && !raw::fill(&mut slot, address, header.captured_len) {
        header.captured_len = 0;
        outcome = Err(DropReason::UserFault);
    }
    raw::set_header(&mut slot, header);
    slot.submit(wake.flag());
    raw::tally(Tally::Records, 1);
    raw::tally(Tally::BytesCaptured, u64::from(header.captured_len));
    outcome
}

/// Emits a record about an end, a close or a process. There is room for some when there is none for data.
#[inline(always)]
pub fn control(header: &RecordHeader, wake: Wake) -> Option<()> {
    let wake = wake.when(waiting());
    let mut slot = raw::reserve::<0>()?;
    raw::set_header(&mut slot, header);
    slot.submit(wake.flag());
    raw::tally(Tally::Records, 1);
    Some(())
}

/// Bytes that wait to be read.
#[inline(always)]
fn waiting() -> u64 {
    RECORDS.query(u64::from(BPF_RB_AVAIL_DATA))
}

impl Wake {
    /// What remains of the choice when so many bytes wait.
    #[inline(always)]
    fn when(self, waiting: u64) -> Self {
        if waiting >= u64::from(SETTINGS.load().wakeup_bytes) { Self::Now } else { self }
    }

    #[inline(always)]
    fn flag(self) -> u64 {
        u64::from(if self == Self::Now { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
    }
}
