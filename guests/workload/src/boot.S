# From the PVH entry point (32-bit, no paging; https://xenbits.xen.org/docs/unstable/misc/pvh.html) or a
# start-up IPI (16-bit) to Rust in ring 3 of long mode, where `cpu_start(cpu)` takes over.
#
# Why ring 3: under a KVM without hardware virtualisation, ring 0 is emulated instruction by instruction and
# ring 3 runs natively. Ring 3 may use ports: by IOPL 3, and, as such a KVM can lose that on the way to native
# code, by an I/O permission bitmap that forbids nothing. So ring 0 does only what ring 3 cannot: control
# registers, MSRs, descriptor tables, and CPUID (which may be emulated in ring 0 alone).
#
# SYSEXIT leaves ring 0 where an emulator lacks IRETQ. AMD processors know no SYSEXIT in long mode and raise
# #UD, upon which the handler leaves by IRETQ.

.set CODE64, 0x08
.set DATA, 0x10
.set USER_CODE64, 0x2b
.set USER_DATA, 0x33
.set CODE32, 0x38
.set FIRST_TSS, 0x40
.set MAX_CPUS, 64
.set LAPIC_ID, 0xfee00020
.set RING0_STACK_SHIFT, 9

.section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18                      # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

.section .text.boot, "ax", @progbits

# ---- the first CPU: EBX points to the start info ----
.code32
.globl pvh_start
pvh_start:
    cld
    mov %ebx, %ebp
    mov $bss_start, %edi                # not every loader zeroes it, and none does at a reset
    mov $bss_end, %ecx
    sub %edi, %ecx
    shr $2, %ecx
    xor %eax, %eax
    rep stosl
    mov %ebp, start_info_address
    movl $boot_stack_top - 8, user_stacks
    movb $0xff, io_bitmap + 8192

    # Identity map: the first GiB as memory, the top 32 MiB below 4 GiB as device registers, uncached.
    # The rest of memory is mapped in Rust, once the memory map is known.
    movl $pdpt + 7, pml4
    movl $page_directory_low + 7, pdpt
    movl $page_directory_high + 7, pdpt + 3 * 8
    mov $page_directory_low, %edi
    mov $0x87, %eax                     # present, writable, user, 2 MiB
    mov $512, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    dec %ecx
    jnz 1b
    mov $page_directory_high + 0x1f0 * 8, %edi
    mov $0xfe00009f, %eax               # and PCD, PWT
    mov $16, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    dec %ecx
    jnz 1b
    xor %edi, %edi
    jmp enter_long_mode

# ---- the other CPUs: copied to a page below 1 MiB, where a start-up IPI starts them ----
.code16
.globl ap_trampoline
ap_trampoline:
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl ap_gdt_pointer - ap_trampoline
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $CODE32, $ap_start
    .balign 4
ap_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
.globl ap_trampoline_end
ap_trampoline_end:

.code32
ap_start:
    mov $DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov LAPIC_ID, %edi                  # which CPU am I?
    shr $24, %edi
    cmp $MAX_CPUS, %edi
    jae 1f
    cmpl $0, user_stacks(,%edi,8)       # no stack: not asked for
    jne enter_long_mode
1:  cli
    hlt
    jmp 1b

# ---- all CPUs: EDI is the CPU's number ----
enter_long_mode:
    mov %cr4, %eax
    or $0x620, %eax                     # PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx               # EFER
    rdmsr
    or $0x100, %eax                     # LME
    wrmsr
    mov %cr0, %eax
    and $~0x6000000c, %eax              # no CD, NW, EM, TS
    or $0x80000003, %eax                # PG, MP, PE
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $CODE64, $long_mode

.code64
long_mode:
    mov $DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %edi, %eax                      # this CPU's stack for ring 0
    inc %eax
    shl $RING0_STACK_SHIFT, %eax
    lea ring0_stacks(%rax), %rsp
    mov %edi, %eax                      # its TSS, which says where that stack is
    shl $7, %eax
    lea tss_area(%rax), %rbx
    mov %rsp, 4(%rbx)
    mov $io_bitmap, %edx                # and that every port is allowed
    sub %ebx, %edx
    movw %dx, 102(%rbx)
    add $8192, %edx                     # the limit: the byte behind the bitmap is part of it
    mov %edi, %eax                      # the TSS's descriptor
    shl $4, %eax
    lea gdt + FIRST_TSS(%rax), %rcx
    add $FIRST_TSS, %eax
    movw %dx, (%rcx)
    movw %bx, 2(%rcx)
    shr $16, %ebx
    movb %bl, 4(%rcx)
    movb $0x89, 5(%rcx)
    movb $0, 6(%rcx)
    movb %bh, 7(%rcx)
    movq $0, 8(%rcx)
    ltr %ax
    test %edi, %edi
    jnz 1f
    call fill_idt
    call read_cpuid
    call start_kvmclock
1:  lidt idt_pointer
    mov $0x174, %ecx                    # IA32_SYSENTER_CS: SYSEXIT goes to this + 32 and + 40
    mov $CODE64, %eax
    xor %edx, %edx
    wrmsr
    mov $cpu_start, %edx
    mov user_stacks(,%rdi,8), %rcx

# Goes on in ring 3 at RDX with the stack RCX; RDI is kept.
leave_ring0:
    pushfq
    pop %rax
    or $0x3000, %eax                    # IOPL 3
    and $~0x200, %eax                   # interrupts stay off: everything is polled
    push %rax
    popfq
sysexit_here:
    .byte 0x48, 0x0f, 0x35              # sysexitq
leave_by_iretq:
    movl $1, left_by_iretq
    pushfq
    pop %rax
    or $0x3000, %eax
    and $~0x200, %eax
    push $USER_DATA
    push %rcx
    push %rax
    push $USER_CODE64
    push %rdx
    iretq

fill_idt:
    mov $idt, %ebx
    mov $vector_stubs, %eax
    mov $32, %ecx
1:  movw %ax, (%rbx)
    movw $CODE64, 2(%rbx)
    movw $0x8e00, 4(%rbx)               # present interrupt gate
    mov %eax, %edx
    shr $16, %edx
    movw %dx, 6(%rbx)
    add $16, %ebx
    add $16, %eax
    dec %ecx
    jnz 1b
    ret

read_cpuid:
    xor %esi, %esi
1:  mov cpuid_leaves(,%rsi,4), %eax
    xor %ecx, %ecx
    cpuid
    mov %esi, %r8d
    shl $4, %r8d
    mov %eax, cpuid_results(%r8)
    mov %ebx, cpuid_results + 4(%r8)
    mov %ecx, cpuid_results + 8(%r8)
    mov %edx, cpuid_results + 12(%r8)
    inc %esi
    cmp $CPUID_LEAVES, %esi
    jne 1b
    ret

# Linux, Documentation/virt/kvm/x86/cpuid.rst and msr.rst. Not there: the clock stays 0.
start_kvmclock:
    cmpl $0x4b4d564b, cpuid_results + 5 * 16 + 4    # "KVMK"
    jne 1f
    cmpl $0x564b4d56, cpuid_results + 5 * 16 + 8    # "VMKV"
    jne 1f
    testl $8, cpuid_results + 6 * 16                # KVM_FEATURE_CLOCKSOURCE2
    jz 1f
    xor %edx, %edx
    mov $0x4b564d00, %ecx                           # MSR_KVM_WALL_CLOCK_NEW
    mov $kvm_wall_clock, %eax
    wrmsr
    mov $0x4b564d01, %ecx                           # MSR_KVM_SYSTEM_TIME_NEW, bit 0 enables
    mov $kvm_system_time + 1, %eax
    wrmsr
1:  ret

# ---- exceptions: the first is reported from ring 3 by `fault_entry`, where Rust can print it ----
    .balign 16
vector_stubs:
.set vector, 0
.rept 32
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push $0
    .endif
    push $vector
    jmp fault
    .set vector, vector + 1
.endr

fault:
    cmpl $6, (%rsp)
    jne 1f
    cmpq $sysexit_here, 16(%rsp)
    je leave_by_iretq
1:  mov $1, %eax
    xchg %eax, fault_taken
    test %eax, %eax
    jnz halt
    pop fault_record                    # vector
    pop fault_record + 8                # error code
    pop fault_record + 16               # RIP
    mov 16(%rsp), %rax
    mov %rax, fault_record + 24         # RSP
    mov %cr2, %rax
    mov %rax, fault_record + 32
    xor %eax, %eax
    str %ax
    sub $FIRST_TSS, %eax
    shr $4, %eax
    mov %eax, %edi                      # which CPU
    mov $fault_entry, %edx
    mov $fault_stack_top - 8, %ecx
    jmp leave_ring0
halt:
    cli
    hlt
    jmp halt

.section .data.boot, "aw", @progbits
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 08 code, 64 bits
    .quad 0x00cf93000000ffff            # 10 data
    .quad 0x00cffb000000ffff            # 18 user code, 32 bits: SYSEXIT wants its place
    .quad 0x00cff3000000ffff            # 20 user data
    .quad 0x00affb000000ffff            # 28 user code, 64 bits
    .quad 0x00cff3000000ffff            # 30 user data
    .quad 0x00cf9b000000ffff            # 38 code, 32 bits
    .zero MAX_CPUS * 16                 # 40 a TSS for each CPU
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 32 * 16 - 1
    .quad idt
    .balign 4
cpuid_leaves:
    .long 0, 1, 7, 0x15, 0x16, 0x40000000, 0x40000001, 0x40000010, 0x80000000, 0x80000007
.set CPUID_LEAVES, (. - cpuid_leaves) / 4

.section .bss.boot, "aw", @nobits
    .balign 4096
pml4: .skip 4096
.globl pdpt
pdpt: .skip 4096
page_directory_low: .skip 4096
page_directory_high: .skip 4096
tss_area: .skip MAX_CPUS * 128
io_bitmap: .skip 8192 + 64              # behind all TSSs: one for all of them
ring0_stacks: .skip MAX_CPUS << RING0_STACK_SHIFT
.globl idt
idt: .skip 32 * 16
boot_stack: .skip 65536
boot_stack_top:
fault_stack: .skip 8192
fault_stack_top:
    .balign 64
.globl kvm_system_time
kvm_system_time: .skip 64
.globl kvm_wall_clock
kvm_wall_clock: .skip 64
.globl cpuid_results
cpuid_results: .skip CPUID_LEAVES * 16
.globl user_stacks
user_stacks: .skip MAX_CPUS * 8
.globl fault_record
fault_record: .skip 40
.globl start_info_address
start_info_address: .skip 4
.globl left_by_iretq
left_by_iretq: .skip 4
.globl fault_taken
fault_taken: .skip 4
