//! A number that programs read in a map of its own, and that is written once.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use super::call;

/// A map of one value of eight bytes, which programs cannot write (Linux 5.2).
#[derive(Debug)]
pub(crate) struct Word(OwnedFd);

impl Word {
    /// Zero as yet. `name`: at most 15 bytes.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        const BPF_MAP_CREATE: libc::c_long = 0;
        const BPF_MAP_TYPE_ARRAY: u32 = 2;
        const BPF_F_RDONLY_PROG: u32 = 1 << 7;
        #[repr(C)]
        struct Attr {
            kind: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            flags: u32,
            inner_map_fd: u32,
            numa_node: u32,
            name: [u8; 16],
        }
        let mut attr = Attr {
            kind: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
            flags: BPF_F_RDONLY_PROG,
            inner_map_fd: 0,
            numa_node: 0,
            name: super::name(name),
        };
        // SAFETY: `attr` has the layout of the map_create member of `union bpf_attr`.
        unsafe { call::open(BPF_MAP_CREATE, &mut attr) }.map(Self)
    }

    /// Writes it, and has the kernel take no other value from anybody.
    pub(crate) fn set_for_ever(self, value: u64) -> io::Result<()> {
        const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
        const BPF_MAP_FREEZE: libc::c_long = 22;
        #[repr(C)]
        struct Attr {
            map_fd: u32,
            padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let key = 0_u32;
        let mut attr = Attr {
            map_fd: self.0.as_raw_fd().unsigned_abs(),
            padding: 0,
            key: (&raw const key) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        // SAFETY: `attr` has the layout of the element member of `union bpf_attr`; key and
        // value have the map's sizes and outlive the call.
        unsafe { call::call(BPF_MAP_UPDATE_ELEM, &mut attr) }?;
        let mut map_fd = self.0.as_raw_fd().unsigned_abs();
        // SAFETY: of that member the call takes the map's descriptor alone.
        unsafe { call::call(BPF_MAP_FREEZE, &mut map_fd) }.map(drop)
    }
}

impl AsFd for Word {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
