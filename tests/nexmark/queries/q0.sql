--! kind = "stream"
-- Pass through.
SELECT auction, bidder, price, extra FROM bid
