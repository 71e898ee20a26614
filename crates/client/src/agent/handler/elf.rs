//! Whether this machine can execute a binary, by the head that the kernel looks at (elf(5)).
//!
//! Only what is certain is a fault: a head that is cut off, and a machine that differs from that of this program. A kernel
//! may execute binaries of others, as a 64-bit one does with those of 32 bits, so the known pairs are let pass; and so is
//! every known machine where the kernel was given an interpreter for other files (binfmt_misc).

use std::path::Path;

const MAGIC: &[u8] = b"\x7fELF";
/// Bytes of the head of a 32-bit and of a 64-bit file.
const HEAD_BYTES: (usize, usize) = (52, 64);
/// Class, byte order, type and machine of the head.
const CLASS_AT: usize = 4;
const ORDER_AT: usize = 5;
const MACHINE_AT: usize = 18;
const CLASS_32: u8 = 1;
const ORDER_BIG: u8 = 2;

/// What is wrong with a file that starts with these bytes: the rest of a sentence. `None` if nothing is, as far as that can
/// be seen, or if it is no ELF file.
pub(super) fn fault(start: &[u8]) -> Option<String> {
    let rest = start.strip_prefix(MAGIC)?;
    let class = start.get(CLASS_AT).copied();
    let bytes = if class == Some(CLASS_32) { HEAD_BYTES.0 } else { HEAD_BYTES.1 };
    if rest.len() + MAGIC.len() < bytes {
        return Some("is cut off: copy it again".to_owned());
    }
    let machine = machine(start)?;
    let own = own_machine()?;
    let is_known = MACHINES.iter().any(|(id, ..)| *id == machine);
    if machine == own || runs_beside(own).contains(&machine) || (is_known && has_emulators()) {
        return None;
    }
    Some(format!(
        "is for another machine, {}, and this one is {}: build it for this one",
        name(machine),
        name(own)
    ))
}

/// The machine, and nothing where the byte order is not known.
fn machine(start: &[u8]) -> Option<u16> {
    let bytes: [u8; 2] = start.get(MACHINE_AT..MACHINE_AT + 2)?.try_into().ok()?;
    match start.get(ORDER_AT) {
        Some(&ORDER_BIG) => Some(u16::from_be_bytes(bytes)),
        _ => Some(u16::from_le_bytes(bytes)),
    }
}

/// That of this program, which runs here.
fn own_machine() -> Option<u16> {
    MACHINES.iter().find(|(_, arch, _)| *arch == std::env::consts::ARCH).map(|(id, ..)| *id)
}

/// Whose binaries a kernel for this machine may execute too, or a kernel on which this program runs so.
fn runs_beside(own: u16) -> &'static [u16] {
    match own {
        3 | 62 => &[3, 62],
        40 | 183 => &[40, 183],
        20 | 21 => &[20, 21],
        _ => &[],
    }
}

/// Whether the kernel has been given interpreters for other binaries.
fn has_emulators() -> bool {
    let registered = std::fs::read_dir(Path::new("/proc/sys/fs/binfmt_misc"));
    registered.is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| !matches!(entry.file_name().to_str(), Some("register" | "status")))
    })
}

fn name(machine: u16) -> String {
    let known = MACHINES.iter().find(|(id, ..)| *id == machine);
    known.map_or_else(|| format!("number {machine}"), |(_, _, name)| (*name).to_owned())
}

/// The number in the head, what the compiler calls it, and what `uname -m` does.
const MACHINES: [(u16, &str, &str); 10] = [
    (3, "x86", "i686"),
    (8, "mips", "mips"),
    (20, "powerpc", "ppc"),
    (21, "powerpc64", "ppc64"),
    (22, "s390x", "s390x"),
    (40, "arm", "arm"),
    (62, "x86_64", "x86_64"),
    (183, "aarch64", "aarch64"),
    (243, "riscv64", "riscv64"),
    (258, "loongarch64", "loongarch64"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian head of 64 bits for this machine.
    fn head(machine: u16) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES.1];
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        (head[CLASS_AT], head[ORDER_AT]) = (2, 1);
        head[MACHINE_AT..MACHINE_AT + 2].copy_from_slice(&machine.to_le_bytes());
        head
    }

    #[test]
    fn a_binary_is_refused_if_it_is_cut_off_or_for_another_machine() {
        let own = own_machine().expect("the machines that it is built for are known");
        let whole = head(own);
        assert_eq!(fault(&whole), None);
        assert_eq!(fault(&[]), None, "no ELF file");
        assert_eq!(fault(b"#!/bin/sh"), None, "no ELF file");
        for bytes in [MAGIC.len(), CLASS_AT + 1, HEAD_BYTES.0, HEAD_BYTES.1 - 1] {
            let fault = fault(&whole[..bytes]).unwrap_or_default();
            assert!(fault.starts_with("is cut off"), "{bytes} bytes: {fault}");
        }
        let mut small = whole.clone();
        small[CLASS_AT] = CLASS_32;
        assert_eq!(fault(&small[..HEAD_BYTES.0]), None, "a 32-bit head is shorter");
        // No emulator runs a machine that has no name here.
        let other = fault(&head(0xfff0)).unwrap_or_default();
        assert!(other.contains("for another machine, number 65520, and this one is "), "{other}");
        let mut big = head(own.swap_bytes());
        big[ORDER_AT] = ORDER_BIG;
        assert_eq!(fault(&big), None, "its numbers are in the other order");
        for beside in runs_beside(own) {
            assert_eq!(fault(&head(*beside)), None, "the kernel may run {}", name(*beside));
        }
    }

    #[test]
    fn the_program_that_runs_here_has_no_fault() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(fault(&own[..256]), None);
    }
}
