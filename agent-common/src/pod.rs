//! The marker that lets aya copy our types in and out of maps.

use crate::{
    conn::{ConnState, MuteSlot},
    settings::Settings,
};

// SAFETY: `repr(C)`, integers only, no padding (asserted beside the type), every bit pattern valid.
unsafe impl aya::Pod for ConnState {}
// SAFETY: `repr(C)`, u64 fields only, every bit pattern valid.
unsafe impl aya::Pod for MuteSlot {}
// SAFETY: `repr(C)`, u32 fields only, every bit pattern valid.
unsafe impl aya::Pod for Settings {}
