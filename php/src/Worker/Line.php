<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Quiet;
use Roster\Wire\MessagePack;
use Roster\Wire\Scanner;

/**
 * Messages over one connection that never blocks: complete received ones, and those yet to be written.
 *
 * @internal
 */
final class Line
{
    /** Why nothing is sent or received in a child of the process that made the connection. */
    public const FORKED = 'this is a fork of the worker\'s process, which alone has its connection: end it by exit()';
    /** A peer that does not read is sent no more than this plus one message. */
    private const MAX_UNWRITTEN_BYTES = 1 << 20;
    /** How much to read before processing it. */
    private const MAX_READ_BYTES = 1 << 20;
    /** How much to decode at once, plus one message: an array of three bytes may take 400. */
    private const MAX_DECODED_BYTES = 64 << 10;
    private const PIECE_BYTES = 64 << 10;

    private string $in = '';
    private bool $hasMore = false;
    private Scanner $scanner;
    private string $out = '';
    /** What is being written. If there was no room for it, TLS requires the same data again. */
    private string $piece = '';
    private ?string $end = null;
    private readonly int $process;
    /** When something last arrived, by hrtime(). */
    public int $heardAt;

    /** @param resource $stream a non-blocking one */
    public function __construct(public readonly mixed $stream)
    {
        $this->scanner = new Scanner();
        $this->process = getmypid();
        $this->heardAt = hrtime(true);
        // So that every kind of event loop sees pending data.
        stream_set_read_buffer($stream, 0);
    }

    /** Why nothing can be sent or received any more; null: it can. */
    public function end(): ?string
    {
        // A child has a copy of the connection, and would take what is its parent's.
        if ($this->end === null && !$this->isOwn()) {
            $this->finish(self::FORKED);
        }
        return $this->end;
    }

    /**
     * Received messages, each with its size in bytes: only as many at once as need little memory.
     *
     * @return list<array{array<mixed>, int}>
     */
    public function receive(): array
    {
        if (!$this->hasMore) {
            $this->read();
        }
        if ($this->end() === self::FORKED) {
            return [];
        }
        [$messages, $from, $this->hasMore] = [[], 0, false];
        try {
            while (($size = $this->scanner->scan($this->in, $from)) !== null) {
                $message = MessagePack::unpack(substr($this->in, $from, $size));
                if (is_array($message) && is_string($message['cmd'] ?? null)) {
                    $messages[] = [$message, $size];
                }
                $from += $size;
                $this->scanner = new Scanner();
                if ($from >= self::MAX_DECODED_BYTES) {
                    $this->hasMore = true;
                    break;
                }
            }
        } catch (\UnexpectedValueException $wrong) {
            $this->finish($wrong->getMessage());
        }
        $this->in = substr($this->in, $from);
        return $messages;
    }

    /** Whether more has arrived than was taken. */
    public function hasMore(): bool
    {
        return $this->hasMore;
    }

    private function read(): void
    {
        for ($read = 0; $this->end() === null && $read < self::MAX_READ_BYTES; $read += strlen($piece)) {
            $piece = (string) Quiet::run(fn () => fread($this->stream, self::PIECE_BYTES));
            if ($piece === '') {
                if (Quiet::run(fn () => feof($this->stream))) {
                    $this->finish('it was closed at the other end');
                }
                break;
            }
            $this->in .= $piece;
            $this->heardAt = hrtime(true);
        }
    }

    /**
     * Sends a message as soon as it can be written; nothing, if the connection has ended.
     *
     * @param array<string, mixed> $message
     * @throws \LengthException|\InvalidArgumentException if it cannot be encoded
     */
    public function send(array $message): int
    {
        $room = Scanner::MAX_BYTES;
        $frame = MessagePack::pack($message, Scanner::MAX_DEPTH, $room);
        if ($this->end() === null) {
            $this->out .= $frame;
            $this->write();
        }
        return strlen($frame);
    }

    /** Writes what can be written now; true: nothing is left. */
    public function write(): bool
    {
        while ($this->end() === null && ($this->piece !== '' || $this->out !== '')) {
            if ($this->piece === '') {
                $this->piece = substr($this->out, 0, self::PIECE_BYTES);
                $this->out = substr($this->out, self::PIECE_BYTES);
            }
            $written = Quiet::run(fn () => fwrite($this->stream, $this->piece));
            if ($written === false) {
                $this->finish(Quiet::$warning);
            }
            if (!$written) {
                return false;
            }
            $this->piece = substr($this->piece, $written);
        }
        return $this->end === null;
    }

    /** Whether the other end has to read before more is sent. */
    public function isFull(): bool
    {
        return strlen($this->out) + strlen($this->piece) >= self::MAX_UNWRITTEN_BYTES;
    }

    public function isWritten(): bool
    {
        return $this->out === '' && $this->piece === '';
    }

    public function close(): void
    {
        $this->finish('it was closed at this end');
        if (is_resource($this->stream)) {
            // Not immediately: unread data would cause what was written to be discarded. A child ends its copy alone.
            $this->isOwn() && Quiet::run(fn () => stream_socket_shutdown($this->stream, STREAM_SHUT_WR));
            fclose($this->stream);
        }
    }

    private function isOwn(): bool
    {
        return $this->process === getmypid();
    }

    /** What was not written nobody will read. */
    private function finish(string $why): void
    {
        $this->end ??= $why;
        [$this->out, $this->piece] = ['', ''];
    }
}
