// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// Masks that a program reads for each frame, so that another mask needs no other program.
///
/// A tuple without rules can be given another mask while frames are looked up. The key of a rule has its mask's tag, which no other
/// mask had before it in this table. A program reads the tag first, then the mask, then the map:
///
/// ```
/// here                 1 the last rule of the old tag goes   2 the new mask's words   3 the new tag   4 its first rule
/// old tag in a frame   the words may be of both masks: no rule is found by the old tag from 1 on
/// new tag in a frame   the words are the new ones: stored before the tag (release), and read by an index that is made of the tag
/// ```
struct XDPMaskTable: ~Copyable {
    /// The bits of a tag that are its tuple.
    static let tupleOnes = UInt64(XDPRulePlan.maskCountMax - 1)

    /// One entry: for each tuple the tag of its mask. Stored here alone.
    let tags: BPFSharedArray
    /// For each tuple the plan's words of its mask. Stored here alone, before the tag.
    let words: BPFSharedArray

    /// A table with the masks of a plan, which has not more than there are tuples.
    init(_ plan: XDPRulePlan) throws(PacketIOError) {
        let tags = try BPFSharedArray(entryCount: 1, wordCount: XDPRulePlan.maskCountMax)
        let words = try BPFSharedArray(entryCount: XDPRulePlan.maskCountMax, wordCount: plan.words.count)
        for tuple in 0..<XDPRulePlan.maskCountMax { tags[0, tuple] = UInt64(tuple) }
        self.tags = tags
        self.words = words
        for (tuple, mask) in plan.masks.enumerated() { setMask(mask, tuple: tuple, plan) }
    }

    /// The tag of a tuple's mask.
    func tag(of tuple: Int) -> UInt64 { tags[0, tuple] }

    /// Gives a tuple without rules another mask, which the plan covers, under a tag of its own.
    func setMask(_ mask: FlowKey, tuple: Int, _ plan: XDPRulePlan) {
        for (index, word) in plan.words.enumerated() { words[tuple, index] = mask.words[word] }
        tags[0, tuple] += Self.tupleOnes + 1
    }
}
