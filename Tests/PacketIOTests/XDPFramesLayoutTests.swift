// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import PacketIO

@Suite("How frames lie in lent memory") struct XDPFramesLayoutTests {
    @Test("A layout reads back; one that no kernel takes is none")
    func text() {
        let layout = XDPFramesLayout(
            frameByteCountMax: 1522, takesFragments: false, chunkByteCount: 2048, receiveCount: 4096, queueCount: 2)
        #expect(XDPFramesLayout(layout.text) == layout)
        for text in [
            "", "1522 0 2048 4096", "1522 2 2048 4096 1", "1522 0 2047 4096 1", "1522 0 2048 4095 1", "1522 0 2048 0 1",
            "1522 0 2048 4096 65", "1522 0 2048 4096 0", "-1 0 2048 4096 1", "1522 0 2048 4611686018427387904 1",
        ] {
            #expect(XDPFramesLayout(text) == nil, "\(text)")
        }
    }
}
