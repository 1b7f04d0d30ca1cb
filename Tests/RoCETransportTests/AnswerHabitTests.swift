// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

@testable import RoCETransport

@Suite("An acknowledgement that may wait for the application's answer")
struct AnswerHabitTests {
    let one = QPN(truncating: 0x01_0005)
    let other = QPN(truncating: 0x01_0006)

    /// A habit in which `count` messages were each answered at once.
    func habit(after count: Int) -> AnswerHabit {
        var habit = AnswerHabit()
        for _ in 0..<count {
            _ = habit.notAnswered()
            habit.messageEnded(on: one)
            habit.receivesEnded(mayHold: true)
            _ = habit.answered(on: one)
        }
        return habit
    }

    @Test("It is held only after eight messages in a row were answered at once")
    func streak() {
        for count in 0..<12 {
            var habit = habit(after: count)
            habit.messageEnded(on: one)
            habit.receivesEnded(mayHold: true)
            #expect((habit.held == one) == (count >= 8))
            let waited = habit.answered(on: one)
            #expect(waited == (count >= 8))
            #expect(habit.held == nil)
        }
    }

    @Test("It is let go as soon as the application does something else, and then not held for a while")
    func notAnswered() {
        var habit = habit(after: 20)
        habit.messageEnded(on: one)
        habit.receivesEnded(mayHold: true)
        let released = habit.notAnswered()
        #expect(released == one)
        #expect(habit.held == nil)
        let again = habit.notAnswered()
        #expect(again == nil)
        habit.messageEnded(on: one)
        habit.receivesEnded(mayHold: true)
        #expect(habit.held == nil)
    }

    @Test(
        "It is not held for an answer on another queue pair, for several messages, or where nobody would look after it")
    func otherwise() {
        var several = habit(after: 20)
        several.messageEnded(on: one)
        several.messageEnded(on: other)
        several.receivesEnded(mayHold: true)
        #expect(several.held == nil)

        var alone = habit(after: 20)
        alone.messageEnded(on: one)
        alone.receivesEnded(mayHold: false)
        #expect(alone.held == nil)

        var elsewhere = habit(after: 20)
        elsewhere.messageEnded(on: one)
        elsewhere.receivesEnded(mayHold: true)
        let waited = elsewhere.answered(on: other)
        #expect(!waited)
        #expect(elsewhere.held == one)
        let released = elsewhere.notAnswered()
        #expect(released == one)
    }
}
