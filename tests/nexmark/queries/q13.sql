--! kind = "stream"
-- A join with a side input.
SELECT b.auction, b.bidder, b.price, s.value FROM bid b JOIN side_input s ON b.auction % 1000 = s.number
