//! Offsets of struct members, from the kernel's own type information.
//!
//! A small reader of the BTF format (Documentation/bpf/btf.rst in the kernel tree): just enough to follow
//! a path of member names through structs and unions. aya 0.14 keeps its own reader's members private.

use std::{fs, path::Path};

/// Where kernels built with CONFIG_DEBUG_INFO_BTF show their types.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Type information of one kernel, indexed.
pub struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Byte position of each type; the type with id n is at n - 1 (id 0 is `void`).
    types: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error("cannot read {KERNEL_BTF}: {0}; a kernel with CONFIG_DEBUG_INFO_BTF=y has it")]
    Unreadable(#[source] std::io::Error),
    #[error(
        "{KERNEL_BTF} is not in the BTF format that we know ({0}); please report this with your kernel's version"
    )]
    Malformed(&'static str),
    #[error("this kernel's types have no {0}; please report this with your kernel's version")]
    NoMember(String),
}

const MAGIC: u16 = 0xeb9f;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_TYPE_TAG: u32 = 18;
/// Typedefs and nested anonymous structs are followed this deep at most.
const MAX_DEPTH: u32 = 16;

#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    /// Number of members that follow.
    members: u32,
    /// Member offsets carry a bit-field size in their upper byte.
    kind_flag: bool,
    /// Size, or the id of the type referred to.
    size_or_type: u32,
    /// Byte position of what follows the common part.
    rest: usize,
}

impl Btf {
    /// Reads the running kernel's types: some 6 MB, freed with the value.
    ///
    /// # Errors
    /// When the file is missing or not BTF.
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(Path::new(KERNEL_BTF)).map_err(BtfError::Unreadable)?)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let header = |at| u32_at(&bytes, at).ok_or(BtfError::Malformed("the header is cut short"));
        if header(0)? as u16 != MAGIC {
            return Err(BtfError::Malformed("it does not begin with the magic number"));
        }
        let header_len = header(4)? as usize;
        let types_start = header_len + header(8)? as usize;
        let types_end = types_start + header(12)? as usize;
        let strings = header_len + header(16)? as usize;
        let mut btf = Self { bytes, strings, types: Vec::new() };
        let mut at = types_start;
        while at < types_end {
            let entry = btf.type_at(at).ok_or(BtfError::Malformed("a type is cut short"))?;
            btf.types.push(at as u32);
            at = entry.rest + rest_len(entry).ok_or(BtfError::Malformed("a kind of type is unknown"))?;
        }
        Ok(btf)
    }

    /// Offset in bytes of `path`, such as `task_struct.thread_info.status`, within its first name, a struct.
    ///
    /// # Errors
    /// When the struct or a member does not exist in this kernel.
    pub fn offset(&self, path: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::NoMember(path.to_owned());
        let mut names = path.split('.');
        let mut current = names.next().and_then(|name| self.find_struct(name)).ok_or_else(missing)?;
        let mut bits = 0;
        for name in names {
            let (offset, member) = self.member(current, name, MAX_DEPTH).ok_or_else(missing)?;
            bits += offset;
            current = member;
        }
        Ok(bits / 8)
    }

    fn find_struct(&self, name: &str) -> Option<Type> {
        if name.is_empty() {
            return None; // every anonymous struct has that name
        }
        self.types
            .iter()
            .filter_map(|at| self.type_at(*at as usize))
            .find(|entry| entry.kind == KIND_STRUCT && entry.members > 0 && self.is_named(entry.name, name))
    }

    /// Offset in bits and type of a member, looked for in anonymous members too.
    fn member(&self, parent: Type, name: &str, depth: u32) -> Option<(u32, Type)> {
        let parent = self.resolve(parent, depth)?;
        for index in 0..parent.members as usize {
            let at = parent.rest + index * 12;
            let member_name = u32_at(&self.bytes, at)?;
            let member_type = self.type_by_id(u32_at(&self.bytes, at + 4)?);
            let offset = u32_at(&self.bytes, at + 8)?;
            let offset = if parent.kind_flag { offset & 0x00ff_ffff } else { offset };
            if self.is_named(member_name, name) {
                // A member of a basic type has nothing to look into; any type will do.
                return Some((offset, member_type.unwrap_or(parent)));
            }
            if self.is_named(member_name, "")
                && let Some((inner, found)) =
                    member_type.and_then(|nested| self.member(nested, name, depth.checked_sub(1)?))
            {
                return Some((offset + inner, found));
            }
        }
        None
    }

    /// Looks through typedefs and qualifiers; `None` when there is no struct or union behind them.
    fn resolve(&self, mut entry: Type, depth: u32) -> Option<Type> {
        for _ in 0..depth {
            match entry.kind {
                KIND_STRUCT | KIND_UNION => return Some(entry),
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_TYPE_TAG => {
                    entry = self.type_by_id(entry.size_or_type)?;
                }
                _ => return None,
            }
        }
        None
    }

    fn type_by_id(&self, id: u32) -> Option<Type> {
        let at = self.types.get((id as usize).checked_sub(1)?)?;
        self.type_at(*at as usize)
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = u32_at(&self.bytes, at + 4)?;
        Some(Type {
            name: u32_at(&self.bytes, at)?,
            // Wider than before Linux 7.2, which put bits to use that had been zero.
            kind: info >> 24 & 0x7f,
            members: info & 0x00ff_ffff,
            kind_flag: info >> 31 == 1,
            size_or_type: u32_at(&self.bytes, at + 8)?,
            rest: at + 12,
        })
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let start = self.strings + name as usize;
        self.bytes.get(start..start + wanted.len() + 1).is_some_and(|found| {
            found.split_last().is_some_and(|(end, text)| *end == 0 && text == wanted.as_bytes())
        })
    }
}

/// Bytes that follow the common part of a type, by its kind.
fn rest_len(entry: Type) -> Option<usize> {
    let members = entry.members as usize;
    Some(match entry.kind {
        1 | 14 | 17 => 4, // INT, VAR, DECL_TAG
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION => members * 12,
        6 | 13 => members * 8,     // ENUM, FUNC_PROTO
        15 | 19 => members * 12,   // DATASEC, ENUM64
        2 | 7..=12 | 16 | 18 => 0, // PTR, FWD, TYPEDEF, qualifiers, FUNC, FLOAT, TYPE_TAG
        _ => return None,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// struct outer { int a; union { struct { int b; int c; }; long d; }; wrapped_t e; } with
    /// typedef struct { int f; int g; } wrapped_t.
    fn sample() -> Vec<u8> {
        let mut strings = vec![0];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let [int, outer, a, b, c, d, e, f, g, wrapped] =
            ["int", "outer", "a", "b", "c", "d", "e", "f", "g", "wrapped_t"].map(&mut name);
        let kind = |kind: u32, members: u32| kind << 24 | members;
        let types: Vec<u32> = [
            vec![int, kind(1, 0), 4, 32],                              // 1
            vec![0, kind(4, 2), 8, b, 1, 0, c, 1, 32],                 // 2: anonymous struct
            vec![0, kind(5, 2), 8, 0, 2, 0, d, 1, 0],                  // 3: anonymous union
            vec![0, kind(4, 2), 8, f, 1, 0, g, 1, 32],                 // 4
            vec![wrapped, kind(8, 0), 4],                              // 5: typedef of 4
            vec![outer, kind(4, 3), 24, a, 1, 0, 0, 3, 64, e, 5, 128], // 6
        ]
        .concat();
        let header = [
            u32::from(MAGIC) | 1 << 16,
            24,
            0,
            types.len() as u32 * 4,
            types.len() as u32 * 4,
            strings.len() as u32,
        ];
        let mut bytes: Vec<u8> = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(&strings);
        bytes
    }

    #[test]
    fn members_are_found_through_anonymous_members_and_typedefs() {
        let btf = Btf::parse(sample()).unwrap();
        for (path, want) in
            [("outer.a", 0), ("outer.b", 8), ("outer.c", 12), ("outer.d", 8), ("outer.e.g", 20)]
        {
            assert_eq!(btf.offset(path).unwrap(), want, "{path}");
        }
        for path in ["outer.z", "missing.a", "outer.a.b", ""] {
            assert!(btf.offset(path).is_err(), "{path}");
        }
    }

    #[test]
    fn damaged_type_information_is_refused_or_read_never_a_panic() {
        let sample = sample();
        for cut in 0..sample.len() {
            if let Ok(btf) = Btf::parse(sample[..cut].to_vec()) {
                let _ = btf.offset("outer.e.g");
            }
        }
        for at in 0..sample.len() {
            let mut damaged = sample.clone();
            damaged[at] ^= 0xff;
            if let Ok(btf) = Btf::parse(damaged) {
                let _ = btf.offset("outer.e.g");
            }
        }
    }
}
