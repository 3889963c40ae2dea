--! kind = "stream"
-- Currency conversion.
SELECT auction, bidder, 0.908 * price AS price, extra FROM bid
