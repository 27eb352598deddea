# The guests: one program per file guest/NAME.{S,c}, built into build/guest/NAME.{bin,elf}.
#
#   real  16-bit code, assembled for address 0x7c00, raw bytes           hv run --boot flat
#   32    C or assembly in 32-bit protected mode, an ELF32 executable    hv run --boot multiboot|pvh # lab 05
#   64    C or assembly in long mode at a high virtual address, ELF64    hv run --boot elf # lab 03
#
# A new guest needs its name in the list of its kind, nothing else. binutils and gcc suffice: no
# libc, no start-up files but those in guest/lib.

GUESTS_REAL := real_hello real_string_io exit_code hlt_forever spin triple_fault
GUESTS_REAL += serial_hello # lab 02
GUESTS_REAL += protected # lab 03
GUESTS_REAL += boot_stamp acpi_poweroff reset_8042 reset_cf9 out_loop # lab 05
# lab 05 {
GUESTS_32 := multiboot_info pvh_info
# }
GUESTS_64 := long_hello unmapped_ports page_fault_fatal ud # lab 03
GUESTS_64 += mmio page_fault idt_timer uart_echo # lab 04
GUESTS_64 += lapic_timer # lab 05
GUESTS_64 += smp_start # lab 06
GUESTS_64 += virtio_rng # lab 07
GUESTS_64 += virtio_blk # lab 08
GUESTS_64 += virtio_net # lab 09

G := build/guest
GUEST_CC ?= gcc
GUEST_CFLAGS := -std=gnu17 -O2 -g -ffreestanding -fno-pic -fno-stack-protector \
                -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns \
                -fcf-protection=none -mgeneral-regs-only -Iinclude -Iguest -MMD -MP $(WARN)
GUEST_CFLAGS_32 := -m32 $(GUEST_CFLAGS)
# lab 03 {
GUEST_CFLAGS_64 := -m64 -mno-red-zone -mcmodel=kernel $(GUEST_CFLAGS)
# }
GUEST_LDFLAGS := -nostdlib -static --no-warn-rwx-segments --build-id=none

guests: $(GUESTS_REAL:%=$(G)/%.bin) $(GUESTS_32:%=$(G)/%.elf) $(GUESTS_64:%=$(G)/%.elf) ## build the small guests

# --- objects: the same sources for 32 and 64 bits ---
$(G)/obj32/%.o: guest/%.S
	@mkdir -p $(@D)
	$(call say,GUEST)
	$(Q)$(GUEST_CC) $(GUEST_CFLAGS_32) -c -o $@ $<
# lab 05 {
$(G)/obj32/%.o: guest/%.c
	@mkdir -p $(@D)
	$(call say,GUEST)
	$(Q)$(GUEST_CC) $(GUEST_CFLAGS_32) -c -o $@ $<
# }
# lab 03 {
$(G)/obj64/%.o: guest/%.S
	@mkdir -p $(@D)
	$(call say,GUEST)
	$(Q)$(GUEST_CC) $(GUEST_CFLAGS_64) -c -o $@ $<
$(G)/obj64/%.o: guest/%.c
	@mkdir -p $(@D)
	$(call say,GUEST)
	$(Q)$(GUEST_CC) $(GUEST_CFLAGS_64) -c -o $@ $<
# }

# --- programs ---
GUEST_LIB_32 := $(G)/obj32/lib/print.o $(G)/obj32/lib/string.o # lab 05
GUEST_LIB_64 := $(patsubst %,$(G)/obj64/lib/%.o,start64 print string) # lab 03
GUEST_LIB_64 += $(patsubst %,$(G)/obj64/lib/%.o,vectors idt pic lapic) # lab 04

$(GUESTS_REAL:%=$(G)/%.bin): $(G)/%.bin: $(G)/obj32/%.o
	$(call say,GUEST)
	$(Q)$(LD) -m elf_i386 $(GUEST_LDFLAGS) -Ttext 0x7c00 -e _start --oformat binary -o $@ $<

# lab 05 {
$(G)/multiboot_info.elf: $(G)/obj32/lib/multiboot.o
$(G)/pvh_info.elf: $(G)/obj32/lib/pvh.o
$(GUESTS_32:%=$(G)/%.elf): $(G)/%.elf: $(G)/obj32/%.o $(GUEST_LIB_32) guest/lib/protected.ld
	$(call say,GUEST)
	$(Q)$(LD) -m elf_i386 $(GUEST_LDFLAGS) -T guest/lib/protected.ld -o $@ $(filter %.o,$^)
# }

# lab 03 {
$(G)/smp_start.elf: $(G)/obj64/lib/trampoline.o $(G)/obj64/lib/acpi.o # lab 06
$(GUESTS_64:%=$(G)/%.elf): $(G)/%.elf: $(G)/obj64/%.o $(GUEST_LIB_64) guest/lib/long.ld
	$(call say,GUEST)
	$(Q)$(LD) -m elf_x86_64 $(GUEST_LDFLAGS) -z max-page-size=4096 -T guest/lib/long.ld -o $@ $(filter %.o,$^)
# }

-include $(wildcard $(G)/obj*/*.d $(G)/obj*/lib/*.d)
