fn main() -> std::process::ExitCode {
    // candle's own pool of threads spins while it waits, which costs the local model ten times its speed on a machine
    // that does anything else. One thread needs no pool.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: this is the only thread so far, so nothing reads the environment meanwhile.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    reprise::cli::main()
}
