// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO

/// Starts a thread of the library's own. All signals are blocked in it: they are the application's.
///
/// - Throws: EAGAIN where there is no room for another thread.
package func startThread(_ body: @escaping @Sendable () -> Void) throws(PacketIOError) -> pthread_t {
    var all = sigset_t()
    var before = sigset_t()
    unsafe sigfillset(&all)
    unsafe pthread_sigmask(SIG_BLOCK, &all, &before)
    defer { unsafe pthread_sigmask(SIG_SETMASK, &before, nil) }
    // Retained for the thread; its first act is to take the reference over.
    let argument = unsafe Unmanaged.passRetained(ThreadBody(run: body)).toOpaque()
    var thread = pthread_t()
    let code = unsafe pthread_create(
        &thread, nil,
        { argument in
            unsafe Unmanaged<ThreadBody>.fromOpaque(argument!).takeRetainedValue().run()
            return nil
        }, argument)
    guard code == 0 else {
        unsafe Unmanaged<ThreadBody>.fromOpaque(argument).release()
        throw .system(call: "pthread_create", code: code)
    }
    return thread
}

private final class ThreadBody: Sendable {
    let run: @Sendable () -> Void

    init(run: @escaping @Sendable () -> Void) { self.run = run }
}
