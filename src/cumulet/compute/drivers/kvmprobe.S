# SPDX-License-Identifier: Apache-2.0
# 64 KiB ROM: reset vector -> real -> protected -> long mode, then writes 0x31 to port 0xf4 (isa-debug-exit => exit (0x31<<1)|1 = 99)
.code16
.org 0
start16:
  cli
  lgdtl %cs:(gdtr32 - start16)
  movl %cr0, %eax
  orl $1, %eax
  movl %eax, %cr0
  ljmpl $8, $0xf0000 + (start32 - start16)
.code32
start32:
  movw $0x10, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  # page tables: PML4 at 0x1000, PDPT at 0x2000, 512 pages of 2 MiB at 0x3000
  xorl %eax, %eax
  movl $0x1000, %edi
  movl $0xc00, %ecx
  cld
  rep stosl
  movl $0x2003, 0x1000
  movl $0x3003, 0x2000
  movl $0x3000, %edi
  movl $0x83, %eax
  movl $512, %ecx
1: movl %eax, (%edi)
  addl $0x200000, %eax
  addl $8, %edi
  loop 1b
  movl $0x1000, %eax
  movl %eax, %cr3
  movl %cr4, %eax
  orl $0x20, %eax
  movl %eax, %cr4
  movl $0xc0000080, %ecx
  rdmsr
  orl $0x100, %eax
  wrmsr
  movl %cr0, %eax
  orl $0x80000000, %eax
  movl %eax, %cr0
  ljmpl $0x18, $0xf0000 + (start64 - start16)
.code64
start64:
  movw $0x10, %ax
  movw %ax, %ds
  movw %ax, %ss
  movl $0x8000, %esp
  # some real work in ring 0 long mode: 100000 cr3 reloads and pushes
  movl $100000, %ecx
2: pushq %rcx
  movq %cr3, %rax
  popq %rcx
  decl %ecx
  jnz 2b
  movl $0x31, %eax
  movw $0xf4, %dx
  outl %eax, %dx
3: hlt
  jmp 3b
.align 16
gdt:
  .quad 0
  .quad 0x00cf9a000000ffff
  .quad 0x00cf92000000ffff
  .quad 0x00af9a000000ffff
gdtr32:
  .word 31
  .long 0xf0000 + (gdt - start16)
.org 0xfff0
.code16
  .byte 0xe9
  .word start16 - . - 2
.org 0x10000
# Build: as --64 -o probe.o kvmprobe.S && objcopy -O binary -j .text probe.o probe.rom
