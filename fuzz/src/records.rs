//! Bytes as they might lie in the ring buffer: decoded, and run through the pipeline.

use std::net::{Ipv6Addr, SocketAddr};

use agent::pipeline::{Limits, Pipeline, Policy};
use agent_common::{
    conn::Direction,
    decode::{Closed, Data, DecodeError, End, Listener, Notice, Peer, Process, Record, decode},
    event::HEADER_LEN,
};

use crate::account::Account;

/// Decodes record after record; where there is none, looks again a byte further.
pub fn check(input: &[u8]) {
    let mut pipeline = Pipeline::new(Limits::default());
    pipeline.add_target(1, Policy::default());
    pipeline.add_target(2, Policy { ports: vec![80], ..Policy::default() });
    let mut at = 0;
    while let Some(bytes) = input.get(at..).filter(|bytes| !bytes.is_empty()) {
        let decoded = decode(bytes);
        assert_eq!(decoded, decode_by_hand(bytes));
        at += match decoded {
            Ok(Record::Data(data)) => HEADER_LEN + data.bytes.len(),
            Ok(_) => HEADER_LEN,
            Err(_) => 1,
        };
        if let Ok(record) = decoded {
            pipeline.handle_event(record);
        }
    }
    for target in [1, 2] {
        pipeline.finish_target(target);
        Account::default().close(&mut pipeline, target);
    }
}

/// The layout written out: byte by byte, from the table in `agent_common::event`.
fn decode_by_hand(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    if bytes.len() < 56 {
        return Err(DecodeError::Truncated);
    }
    let number = |at: usize, len: usize| -> u64 {
        bytes[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let (ktime_ns, conn, offset) = (number(0, 8), number(8, 8), number(16, 8));
    let (original_len, captured_len, turn) = (number(24, 4), number(28, 4), number(32, 4) as u32);
    let (target, pid, local_port) = (number(36, 4) as u32, number(40, 4) as u32, number(44, 2) as u16);
    let (kind, direction, flags) = (bytes[46], bytes[47], bytes[48]);
    if !(1..=7).contains(&kind) {
        return Err(DecodeError::Kind(kind));
    }
    let direction = match direction {
        0 => Direction::Ingress,
        1 => Direction::Egress,
        other => return Err(DecodeError::Direction(other)),
    };
    Ok(match kind {
        1 => {
            if captured_len > original_len || offset > u64::MAX - original_len {
                return Err(DecodeError::Lengths);
            }
            if bytes.len() as u64 - 56 < captured_len {
                return Err(DecodeError::Truncated);
            }
            Record::Data(Data {
                ktime_ns,
                conn,
                target,
                pid,
                local_port,
                direction,
                turn,
                offset,
                original_len: original_len as u32,
                bytes: &bytes[56..56 + captured_len as usize],
                from_start: flags & 1 != 0,
                call_start: flags & 2 != 0,
                turn_start: flags & 4 != 0,
            })
        }
        2 => {
            let untold = original_len as u32;
            Record::End(End { ktime_ns, conn, target, pid, direction, offset, untold })
        }
        3 => Record::Closed(Closed {
            ktime_ns,
            conn,
            target,
            pid,
            local_port,
            from_start: flags & 1 != 0,
            untold: original_len as u32,
            egress_end: offset,
            sampled_out: flags & 8 != 0,
        }),
        4 => Record::ProcessForked(Process { ktime_ns, target, pid }),
        5 => Record::ProcessExited(Process { ktime_ns, target, pid }),
        7 => {
            let listener = (local_port != 0).then_some(Listener { socket: conn, port: local_port });
            Record::Notice(Notice { ktime_ns, pid, listener })
        }
        _ => {
            let address: [u8; 16] = bytes[16..32].try_into().expect("there are as many");
            let address = SocketAddr::from((Ipv6Addr::from(address).to_canonical(), turn as u16));
            Record::Peer(Peer { ktime_ns, conn, target, address })
        }
    })
}
