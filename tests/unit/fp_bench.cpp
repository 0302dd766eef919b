// Drives all units with the same operands, one pair a cycle, and records what each shows.

#include <cstddef>
#include <cstdint>

#include "Vtop.h"
#include "verilated.h"

// Present a[i], b[i], pass_a[i] in cycle i, and store the outputs of cycle i in
// o[i * units .. i * units + units - 1]. Each call starts a new pipeline.
extern "C" void run(size_t cycles, size_t units, const uint32_t* a, const uint32_t* b,
                    const uint8_t* pass_a, uint32_t* o) {
    VerilatedContext context;
    Vtop top{&context};
    for (size_t cycle = 0; cycle < cycles; ++cycle) {
        top.a = a[cycle];
        top.b = b[cycle];
        top.pass_a = pass_a[cycle];
        top.clk = 0;
        top.eval();
        for (size_t unit = 0; unit < units; ++unit) *o++ = top.o[unit];
        top.clk = 1;
        top.eval();
    }
}
