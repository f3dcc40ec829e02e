<?php
// Compiled once by a master, and run in each of its connections: on the stream come calls, as data, and on it go the answers
// to all of them. Whatever a service gives, throws or leaves undone, the master lives, and no call leaves anything behind.
//
// To the master:  ['list', ID], ['call', ID, SERVICE, METHOD, ARGUMENTS, HAS_INPUT], ['taken', ID, COUNT], ['close', ID];
//                 ['give', ID, VALUE], ['given', ID] (a value for the method's input, and its end).
// From it:        ['value', ID, PACKED], ['last', ID, PACKED] (a value and the end), ['end', ID],
//                 ['error', ID, {class, message, code}]; ['took', ID, COUNT] (of the values given).
// PACKED is one value as MessagePack. After $window bytes of values that were not taken, a call rests.
return function ($stream, int $room, int $levels, int $window) {
    $calls = [];
    /** By call, the stream that the method reads, and how many values it was given while it paused. */
    $inputs = [];

    /** What an object is that cannot be sent. */
    $unsendable = function (object $value): ?string {
        foreach (['Closure', 'Generator', 'React\Promise\PromiseInterface', 'React\Stream\ReadableStreamInterface'] as $class) {
            if ($value instanceof $class) {
                return $class;
            }
        }
        return $value instanceof \UnitEnum ? get_debug_type($value) : null;
    };

    $head = function (int $size, string $short, int $fixed, string $one, string $two, string $four): string {
        return $size < $fixed ? chr(ord($short) | $size)
            : ($one !== '' && $size < 0x100 ? $one . chr($size)
            : ($size < 0x10000 ? $two . pack('n', $size) : $four . pack('N', $size)));
    };

    $pack = function ($value, int $levels, int &$left) use (&$pack, $head, $unsendable): string {
        $is_map = is_object($value);
        if ($value instanceof \BackedEnum) {
            return $pack($value->value, $levels, $left);
        } elseif ($value instanceof \JsonSerializable && ($plain = $value->jsonSerialize()) !== $value) {
            if ($levels < 1) {
                throw new \LengthException('the result is nested deeper than a message may be');
            }
            return $pack($plain, $levels - 1, $left);
        } elseif ($is_map) {
            if ($class = $unsendable($value)) {
                throw new \UnexpectedValueException("a $class cannot be sent");
            }
            // What is public, as json_encode() does: the names of the rest begin with a NUL.
            $value = array_filter((array) $value, fn ($name) => strncmp((string) $name, "\0", 1), ARRAY_FILTER_USE_KEY);
        }
        if (is_array($value)) {
            if ($levels < 1) {
                throw new \LengthException('the result is nested deeper than a message may be');
            }
            $next = 0;
            foreach ($value as $key => $_) {
                if ($key !== $next++) {
                    $is_map = true;
                    break;
                }
            }
            $left -= 5;
            $bytes = $is_map
                ? $head(count($value), "\x80", 16, '', "\xde", "\xdf")
                : $head(count($value), "\x90", 16, '', "\xdc", "\xdd");
            foreach ($value as $key => $element) {
                $bytes .= ($is_map ? $pack($key, $levels, $left) : '') . $pack($element, $levels - 1, $left);
            }
            return $bytes;
        }
        if (is_int($value)) {
            $bytes = $value >= -0x20 && $value < 0x80 ? chr($value & 0xff)
                : ($value >= -0x80000000 && $value < 0x80000000 ? "\xd2" . pack('N', $value) : "\xd3" . pack('J', $value));
        } elseif (is_string($value)) {
            // Not a byte of what is too large is copied.
            $bytes = strlen($value) >= $left ? '' : (preg_match('//u', $value)
                ? $head(strlen($value), "\xa0", 32, "\xd9", "\xda", "\xdb")
                : $head(strlen($value), '', 0, "\xc4", "\xc5", "\xc6"));
            $left -= strlen($value) + 5;
        } elseif (is_float($value)) {
            $bytes = "\xcb" . pack('E', $value);
        } elseif ($value === null || is_bool($value)) {
            $bytes = $value === null ? "\xc0" : ($value ? "\xc3" : "\xc2");
        } else {
            throw new \UnexpectedValueException('a ' . get_debug_type($value) . ' cannot be sent');
        }
        $left -= is_string($value) ? 0 : strlen($bytes);
        if ($left < 0) {
            throw new \LengthException('the result is larger than a message may be');
        }
        return is_string($value) ? $bytes . $value : $bytes;
    };

    $plain = function ($value) use ($pack, $room, $levels): string {
        $left = $room;
        return $pack($value, $levels, $left);
    };

    /** Forgets a call, and stops what goes on for it. */
    $stop = function ($id) use (&$calls, &$inputs): void {
        [$call, $input] = [$calls[$id] ?? null, $inputs[$id] ?? null];
        unset($calls[$id], $inputs[$id]);
        try {
            $input?->stream->close();
        } catch (\Throwable $late) {
        }
        try {
            if (isset($call->promise) && method_exists($call->promise, 'cancel')) {
                $call->promise->cancel();
            }
            if (isset($call->source)) {
                $call->source->close();
            }
            // The end of a generator may be code that throws.
            unset($call->promise, $call->source, $call->generator, $call);
        } catch (\Throwable $late) {
        }
    };

    $fail = function ($id, $error) use ($stream, $stop): void {
        if (!$error instanceof \Throwable) {
            $error = new \RuntimeException('rejected with a value of type ' . get_debug_type($error));
        }
        $stream->write(['error', $id, [
            'class' => strstr(get_class($error) . "\0", "\0", true),
            'message' => substr($error->getMessage(), 0, 8192),
            'code' => is_int($error->getCode()) ? $error->getCode() : 0,
        ]]);
        $stop($id);
    };

    /** Sends one of many values. */
    $give = function ($id, $value) use ($stream, $plain, &$calls): void {
        $packed = $plain($value);
        $calls[$id]->sizes[] = strlen($packed) + 256;
        $calls[$id]->waiting += strlen($packed) + 256;
        $stream->write(['value', $id, $packed]);
    };

    /** Takes one step of a generator, and sees to it that the next follows when what it gave has left. */
    $step = function ($id) use ($stream, $window, &$calls, &$step, $give, $fail, $stop): void {
        $call = $calls[$id] ?? null;
        if (!$call || !$stream->isWritable() || ($call->rests = $call->waiting >= $window)) {
            return;
        }
        try {
            if ($call->is_begun) {
                $call->generator->next();
            }
            $call->is_begun = true;
            $is_valid = $call->generator->valid();
            if (!isset($calls[$id])) {
                return;
            }
            if ($is_valid) {
                $give($id, $call->generator->current());
                // A step may block: the loop writes what was given after the next tick, and before the one after it.
                \React\EventLoop\Loop::futureTick(function () use ($step, $id) {
                    \React\EventLoop\Loop::futureTick(function () use ($step, $id) {
                        $step($id);
                    });
                });
                return;
            }
            $stream->write(['end', $id]);
            $stop($id);
        } catch (\Throwable $error) {
            $fail($id, $error);
        }
    };

    /** Passes on what a stream of React gives. One that cannot pause is closed when too much of it waits. */
    $follow = function ($id, $source) use ($stream, $window, &$calls, $give, $fail, $stop): void {
        $source->on('data', function ($value) use ($id, $window, &$calls, $give, $fail) {
            $call = $calls[$id] ?? null;
            if (!$call) {
                return;
            }
            try {
                $give($id, $value);
                if ($call->waiting >= 16 * $window) {
                    throw new \OverflowException('the stream gives more than is taken, and does not pause');
                }
                if ($call->rests = $call->waiting >= $window) {
                    $call->source->pause();
                }
            } catch (\Throwable $error) {
                $fail($id, $error);
            }
        });
        $source->on('error', function ($error) use ($id, &$calls, $fail) {
            isset($calls[$id]) && $fail($id, $error);
        });
        $source->on('end', function () use ($id, $stream, &$calls, $stop) {
            if (isset($calls[$id])) {
                $stream->write(['end', $id]);
                $stop($id);
            }
        });
        $source->on('close', function () use ($id, &$calls, $fail) {
            isset($calls[$id]) && $fail($id, new \RuntimeException('the stream was closed before its end'));
        });
        if (!$source->isReadable() && isset($calls[$id])) {
            $fail($id, new \RuntimeException('the stream was closed before its end'));
        }
    };

    /** Answers a call by what the service gave. */
    $answer = function ($id, $result) use ($stream, $plain, &$calls, &$answer, $step, $follow, $fail, $stop): void {
        try {
            $call = (object) ['sizes' => [], 'waiting' => 0, 'rests' => false, 'is_begun' => false];
            if ($result instanceof \React\Promise\PromiseInterface) {
                $calls[$id] = $call;
                $call->promise = $result;
                $result->then(function ($result) use ($id, &$calls, $answer) {
                    if (isset($calls[$id])) {
                        unset($calls[$id]);
                        $answer($id, $result);
                    }
                }, function ($error) use ($id, &$calls, $fail) {
                    isset($calls[$id]) && $fail($id, $error);
                });
            } elseif ($result instanceof \Generator) {
                $calls[$id] = $call;
                $call->generator = $result;
                $step($id);
            } elseif ($result instanceof \React\Stream\ReadableStreamInterface) {
                $calls[$id] = $call;
                $call->source = $result;
                $follow($id, $result);
            } else {
                // Null is no value, but one among many is.
                $stream->write($result === null ? ['end', $id] : ['last', $id, $plain($result)]);
                $stop($id);
            }
        } catch (\Throwable $error) {
            $fail($id, $error);
        }
    };

    $took = function ($id) use ($stream, &$inputs): void {
        $input = $inputs[$id] ?? null;
        if ($input && $input->waiting > 0) {
            $stream->write(['took', $id, $input->waiting]);
            $input->waiting = 0;
        }
    };

    /** Has the method read the caller's values from the first of its parameters that takes a stream. */
    $open = function ($id, \ReflectionMethod $method, array &$listed, array &$named) use (&$inputs, $took): void {
        $input = new \React\Stream\ThroughStream();
        foreach ($method->getParameters() as $index => $parameter) {
            $type = $parameter->getType();
            if ($type instanceof \ReflectionNamedType && !$type->isBuiltin() && is_a($input, $type->getName())) {
                $inputs[$id] = (object) ['stream' => $input, 'waiting' => 0];
                $input->on('drain', function () use ($id, $took) {
                    $took($id);
                });
                if (count($listed) >= $index) {
                    array_splice($listed, $index, 0, [$input]);
                } else {
                    $named[$parameter->getName()] = $input;
                }
                return;
            }
        }
        throw new \RuntimeException("Method '{$method->getName()}' has no parameter that takes a stream");
    };

    $call = function (
        $id,
        string $name,
        string $method,
        array $arguments,
        bool $has_input = false
    ) use ($answer, $open, $fail): void {
        try {
            $service = \ReactphpX\RegisterCenter\ServiceRegistry::get($name);
            if (!$service) {
                throw new \RuntimeException("Service '$name' not found");
            }
            $instance = $service->getInstance();
            if (!strncmp($method, '__', 2) || !method_exists($instance, $method)
                || !($reflected = new \ReflectionMethod($instance, $method))->isPublic()) {
                throw new \RuntimeException("Method '$method' not found in service '$name'");
            }
            // PHP itself matches them: first those by position, then those by name.
            $named = array_filter($arguments, 'is_string', ARRAY_FILTER_USE_KEY);
            $listed = array_diff_key($arguments, $named);
            ksort($listed);
            if ($has_input) {
                $open($id, $reflected, $listed, $named);
            }
            $arguments = array_merge($listed, $named);
            $answer($id, $instance->$method(...$arguments));
        } catch (\Throwable $error) {
            $fail($id, $error);
        }
    };

    /** Which services there are. Metadata that cannot be sent is sent empty. */
    $list = function ($id) use ($stream, $plain, $levels, $fail): void {
        try {
            // One for the process, also at several registers; not that of the process it was forked from.
            if (($GLOBALS['roster.master']['pid'] ?? null) !== getmypid()) {
                $GLOBALS['roster.master'] = ['pid' => getmypid(), 'id' => bin2hex(random_bytes(16))] + $GLOBALS['roster.master'];
            }
            $services = \ReactphpX\RegisterCenter\ServiceRegistry::getServiceNameAndMetadata();
            $flags = JSON_PARTIAL_OUTPUT_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE | JSON_PRESERVE_ZERO_FRACTION;
            $services = json_decode(json_encode($services, $flags), true, $levels, JSON_THROW_ON_ERROR);
            $stream->write(['last', $id, $plain(['id' => $GLOBALS['roster.master']['id'], 'services' => $services])]);
        } catch (\Throwable $error) {
            $fail($id, $error);
        }
    };

    /** Lets a call go on, of whose values so many more were taken. */
    $taken = function ($id, int $count) use (&$calls, $window, $step): void {
        $call = $calls[$id] ?? null;
        if (!$call) {
            return;
        }
        $call->waiting -= array_sum(array_splice($call->sizes, 0, $count));
        if ($call->rests && $call->waiting < $window) {
            $call->rests = false;
            isset($call->generator) ? $step($id) : $call->source->resume();
        }
    };

    /** Gives a value to the method of a call. What a method does not read any more counts as taken. */
    $supply = function ($id, $value) use (&$inputs, $took, $fail): void {
        if ($input = $inputs[$id] ?? null) {
            try {
                $input->waiting++;
                if ($input->stream->write($value) || !$input->stream->isWritable()) {
                    $took($id);
                }
            } catch (\Throwable $error) {
                $fail($id, $error);
            }
        }
    };

    $supplied = function ($id) use (&$inputs, $fail): void {
        if ($input = $inputs[$id] ?? null) {
            try {
                $input->stream->end();
            } catch (\Throwable $error) {
                $fail($id, $error);
            }
        }
    };

    $stream->on('data', function ($asked) use (&$calls, $call, $list, $taken, $supply, $supplied, $stop) {
        try {
            $kind = array_shift($asked);
            if ($kind === 'call') {
                $call(...$asked);
            } elseif ($kind === 'call-with-input') {
                $asked[] = true;
                $call(...$asked);
            } elseif ($kind === 'list') {
                $list(...$asked);
            } elseif ($kind === 'taken') {
                $taken(...$asked);
            } elseif ($kind === 'give') {
                $supply(...$asked);
            } elseif ($kind === 'given') {
                $supplied(...$asked);
            } elseif ($kind === 'close') {
                $stop(...$asked);
            }
        } catch (\Throwable $unexpected) {
        }
    });
    $stream->on('close', function () use (&$calls, $stop) {
        array_map($stop, array_keys($calls));
    });
    return $stream;
};
