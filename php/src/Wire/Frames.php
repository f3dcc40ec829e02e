<?php

declare(strict_types=1);

namespace Roster\Wire;

use Thrift\Exception\TTransportException;
use Thrift\Transport\TTransport;

/**
 * Thrift's view of a channel: what is written is sent as one frame, and is only read once its answer is complete.
 *
 * So no decoder ever waits, sees half an answer or reads into the next one, not even the accelerated one.
 *
 * @internal
 */
final class Frames extends TTransport
{
    private string $out = '';
    private string $in = '';
    private int $at = 0;
    private Deadline $deadline;
    private int $patienceMs = 0;
    private bool $isRepeatable = false;
    /** Whether the message has its answer, which is being decoded. */
    public bool $isAnswered = false;

    public function __construct(private readonly Channel $channel)
    {
    }

    /** Sets how the next message is sent. */
    public function begin(Deadline $deadline, int $patienceMs, bool $isRepeatable): void
    {
        [$this->out, $this->in, $this->at, $this->isAnswered] = ['', '', 0, false];
        [$this->deadline, $this->patienceMs, $this->isRepeatable] = [$deadline, $patienceMs, $isRepeatable];
    }

    public function flush(): void
    {
        $this->in = $this->channel->ask($this->out, $this->deadline, $this->patienceMs, $this->isRepeatable);
        $this->isAnswered = true;
    }

    public function write($buf): void
    {
        $this->out .= $buf;
    }

    public function read($len): string
    {
        $piece = substr($this->in, $this->at, $len);
        if ($piece === '' && $len > 0) {
            throw new TTransportException('the answer ends too early', TTransportException::END_OF_FILE);
        }
        $this->at += strlen($piece);
        return $piece;
    }

    public function readAll($len): string
    {
        if ($len < 0 || $len > strlen($this->in) - $this->at) {
            throw new TTransportException('the answer ends too early', TTransportException::END_OF_FILE);
        }
        $this->at += $len;
        return substr($this->in, $this->at - $len, $len);
    }

    /** The accelerated decoder returns what it read beyond the message. */
    public function putBack($data): void
    {
        $this->at -= strlen($data);
    }

    public function isOpen(): bool
    {
        return true;
    }

    public function open(): void
    {
    }

    public function close(): void
    {
        $this->channel->close();
    }
}
