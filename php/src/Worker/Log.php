<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Wire\MessagePack;

/** The methods of PSR-3, in all of its versions: logs to the sidecar, or to standard error. */
abstract class Log
{
    /** The limit for levels, and for keys of a context. */
    private const MAX_WORD_BYTES = 64;
    private const MAX_MESSAGE_BYTES = 16 << 10;
    private const MAX_CONTEXT_BYTES = 64 << 10;
    private const MAX_CONTEXT_DEPTH = 16;

    private const JSON = JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE
        | JSON_PARTIAL_OUTPUT_ON_ERROR;

    private int $skipped = 0;

    /** @param \Closure(): ?Line $line to the sidecar; null if there is none */
    public function __construct(private readonly \Closure $line)
    {
    }

    /** @param string|\Stringable $message */
    public function emergency($message, array $context = []): void
    {
        $this->log('emergency', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function alert($message, array $context = []): void
    {
        $this->log('alert', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function critical($message, array $context = []): void
    {
        $this->log('critical', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function error($message, array $context = []): void
    {
        $this->log('error', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function warning($message, array $context = []): void
    {
        $this->log('warning', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function notice($message, array $context = []): void
    {
        $this->log('notice', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function info($message, array $context = []): void
    {
        $this->log('info', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function debug($message, array $context = []): void
    {
        $this->log('debug', $message, $context);
    }

    /**
     * Logging never throws or blocks the worker: what the sidecar does not accept is dropped, and counted.
     *
     * @param string $level
     * @param string|\Stringable $message
     */
    public function log($level, $message, array $context = []): void
    {
        $level = Text::cut((string) $level, self::MAX_WORD_BYTES);
        $message = Text::cut((string) $message, self::MAX_MESSAGE_BYTES);
        $context = self::plain($context);
        $line = ($this->line)();
        if ($line === null) {
            $this->print($level, $message, $context);
        } elseif ($line->isFull()) {
            $this->skipped++;
        } else {
            if ($this->skipped > 0) {
                $skipped = ['count' => $this->skipped];
                [$this->skipped, $text] = [0, '{count} messages before this were left out: the sidecar did not read'];
                $line->send(['cmd' => 'worker-log', 'level' => 'warning', 'message' => $text, 'context' => $skipped]);
            }
            $line->send(['cmd' => 'worker-log'] + compact('level', 'message', 'context'));
        }
    }

    /** The parts of a context that can be sent. */
    private static function plain(array $context): object
    {
        $plain = [];
        $left = self::MAX_CONTEXT_BYTES;
        foreach ($context as $key => $value) {
            if ($value instanceof \Throwable) {
                $value = ['class' => Text::className($value), 'message' => Text::cut($value->getMessage(), 8 << 10)]
                    + ['code' => $value->getCode(), 'file' => $value->getFile(), 'line' => $value->getLine()];
            }
            $room = $left;
            $key = Text::cut((string) $key, self::MAX_WORD_BYTES);
            try {
                $plain[$key] = MessagePack::unpack(MessagePack::pack($value, self::MAX_CONTEXT_DEPTH, $room));
            } catch (\Throwable $why) {
                $plain[$key] = get_debug_type($value) . ', left out: ' . Text::cut($why->getMessage(), 200);
                $room = $left - 512;
            }
            if (($left = $room - self::MAX_WORD_BYTES) <= 0) {
                break;
            }
        }
        return (object) $plain;
    }

    private function print(string $level, string $message, object $context): void
    {
        [$fields, $rest] = [[], []];
        foreach ((array) $context as $key => $value) {
            if (str_contains($message, '{' . $key . '}')) {
                $fields['{' . $key . '}'] = is_string($value) ? $value : json_encode($value, self::JSON);
            } else {
                $rest[$key] = $value;
            }
        }
        $text = strtr($message, $fields) . ($rest === [] ? '' : ' ' . json_encode($rest, self::JSON));
        $line = date('c') . " $level: " . str_replace(["\r", "\n"], ' ', $text);
        file_put_contents('php://stderr', "$line\n");
    }
}
